// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-relay.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

namespace stillpoint::mysql {
namespace {

constexpr std::size_t max_links = 4096;

std::filesystem::path make_directory(const std::filesystem::path& parent) {
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (error) throw Error(fmt::format("cannot make the directory {}: {}", parent.native(), error.message()));
  std::filesystem::path path = parent / ("mysql-" + random_id().substr(0, 12));
  if (::mkdir(path.c_str(), 0700) != 0) throw_errno(fmt::format("cannot make the directory {}", path.native()));
  return path;
}

UniqueFd listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    throw Error(fmt::format("the socket path {} is too long", path), "choose a shorter runtime_directory");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(fd.get(), 1) != 0)
    throw_errno(fmt::format("cannot listen at {}", path));
  return fd;
}

}  // namespace

Relay::Relay(std::string server_socket, const std::filesystem::path& directory, std::optional<OsUser> user)
    : server_socket_(std::move(server_socket)),
      user_(std::move(user)),
      directory_(make_directory(directory)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_) {
    const int error = errno;
    ::rmdir(directory_.c_str());
    throw Error(errno_message("cannot make an eventfd", error));
  }
  // Signals are the main thread's business.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Relay::~Relay() {
  stopping_ = true;
  wake();
  thread_.join();
  links_.clear();
  ::rmdir(directory_.c_str());
}

void Relay::wake() noexcept {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(wake_.get(), &one, sizeof(one)));
}

Relay::LinkId Relay::add(std::optional<GateScript> script) {
  LinkId id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) throw QuiesceError("cancelled");
    if (links_.size() >= max_links) throw Error("too many connections to one database server");
    id = links_.size();
    const std::string path = (directory_ / fmt::format("{}.sock", id)).native();
    links_.push_back(std::make_unique<Link>(listen_at(path), path, std::move(script)));
  }
  wake();
  return id;
}

Relay::LinkId Relay::open_plain() {
  return add(std::nullopt);
}

Relay::LinkId Relay::open_gated(GateScript script) {
  return add(std::move(script));
}

std::string Relay::socket_of(LinkId link) const {
  const std::lock_guard lock(mutex_);
  return links_.at(link)->path();
}

void Relay::change(LinkId link, const std::function<void(Link&)>& action) {
  {
    const std::lock_guard lock(mutex_);
    action(*links_.at(link));
  }
  changed_.notify_all();
  wake();
}

void Relay::limit(LinkId link, const Deadline& deadline) {
  change(link, [&](Link& it) { it.set_deadline(deadline); });
}

void Relay::unlimit(LinkId link) {
  change(link, [](Link& it) { it.set_deadline(std::nullopt); });
}

void Relay::close(LinkId link, const std::string& reason) {
  change(link, [&](Link& it) { it.close(reason); });
}

void Relay::set_pins(LinkId link, std::vector<std::string> statements) {
  change(link, [&](Link& it) { it.set_pins(std::move(statements)); });
}

void Relay::open_snapshots() {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& link : links_)
      link->open_snapshot();
  }
  wake();
}

void Relay::pass(LinkId link) {
  change(link, [](Link& it) { it.pass(); });
}

LinkState Relay::state(LinkId link) const {
  const std::lock_guard lock(mutex_);
  return links_.at(link)->state();
}

std::string Relay::failure(LinkId link) const {
  const std::lock_guard lock(mutex_);
  return links_.at(link)->failure();
}

std::size_t Relay::failed_pins(LinkId link) const {
  const std::lock_guard lock(mutex_);
  return links_.at(link)->failed_pins();
}

bool Relay::wait_until_none(std::span<const LinkId> links, std::initializer_list<LinkState> states,
                            const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline.at(), [&] {
    return cancelled_ || std::none_of(links.begin(), links.end(), [&](LinkId link) {
             return std::find(states.begin(), states.end(), links_.at(link)->state()) != states.end();
           });
  }) && !cancelled_;
}

void Relay::cancel() noexcept {
  cancelled_ = true;
  wake();
}

void Relay::run() {
  while (!stopping_) {
    try {
      serve_once();
    } catch (const std::exception& error) {
      // Out of memory, most likely: without its relay the server must not stay held.
      log_error("the relay of {} fails: {}", server_socket_, error.what());
      cancelled_ = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
}

void Relay::serve_once() {
  std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}};
  std::vector<Link*> served;
  int timeout = 1000;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& link : links_) {
      if (link->state() == LinkState::closed) continue;
      if (cancelled_) {
        link->close("cancelled");
        continue;
      }
      const std::array<pollfd, 3> interests = link->interests();
      fds.insert(fds.end(), interests.begin(), interests.end());
      served.push_back(link.get());
      if (link->deadline()) timeout = std::min(timeout, link->deadline()->poll_timeout());
    }
  }
  if (cancelled_) changed_.notify_all();
  if (::poll(fds.data(), fds.size(), timeout) < 0) return;
  if (fds[0].revents != 0) {
    std::uint64_t count = 0;
    static_cast<void>(!::read(wake_.get(), &count, sizeof(count)));
  }
  bool changed = false;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < served.size(); ++i) {
      const LinkState before = served[i]->state();
      served[i]->serve({fds[3 * i + 1], fds[3 * i + 2], fds[3 * i + 3]}, server_socket_, user_);
      changed = changed || served[i]->state() != before;
    }
  }
  if (changed) changed_.notify_all();
}

}  // namespace stillpoint::mysql
