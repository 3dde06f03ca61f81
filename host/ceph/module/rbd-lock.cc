// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rbd-lock.hh"

#include "common/clock.hh"
#include "common/file.hh"
#include "common/log.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

namespace stillpoint {
namespace {

/// Not librbd's own lock, which whoever writes needs.
constexpr const char* lock_name = "stillpoint";
constexpr std::chrono::seconds lock_term{120};
constexpr std::chrono::seconds lock_renewal{30};
/// So long before its end nothing more is begun: others may take it when it has passed.
constexpr std::chrono::seconds lock_margin{20};

struct Locker {
  std::string client;
  std::string cookie;
  std::string address;
};

/// Of a running process and no other: its number may be used again.
std::string start_of(pid_t pid) {
  try {
    const std::string words = read_text(fmt::format("/proc/{}/stat", pid), 4096);
    // After the name, which may contain anything, the twentieth.
    std::istringstream rest(words.substr(words.rfind(')') + 1));
    std::string word;
    constexpr int place = 20;
    for (int i = 0; i < place; ++i)
      rest >> word;
    return word;
  } catch (const Error&) {
    return {};
  }
}

/// In a container, processes have other numbers.
std::string machine() {
  std::string boot = read_text("/proc/sys/kernel/random/boot_id", 64);
  boot.erase(boot.find_last_not_of('\n') + 1);
  return boot + "/" + std::filesystem::read_symlink("/proc/self/ns/pid").native();
}

/// "stillpoint BOOT PID START": a process that has died is known by it on its own machine.
std::string own_cookie() {
  return fmt::format("stillpoint {} {} {}", machine(), ::getpid(), start_of(::getpid()));
}

/// By its entry alone: that one may be hidden from us, or not be readable, says nothing.
bool has_ended(pid_t pid, const std::string& start) {
  const UniqueFd entry(::open(fmt::format("/proc/{}/stat", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!entry) return errno == ENOENT && ::kill(pid, 0) != 0 && errno == ESRCH;
  const std::string now = start_of(pid);
  return !now.empty() && now != start;
}

bool has_died(const std::string& cookie) {
  std::istringstream words(cookie);
  std::string program;
  std::string boot;
  std::string start;
  pid_t pid = 0;
  words >> program >> boot >> pid >> start;
  return program == "stillpoint" && boot == machine() && pid > 1 && !start.empty() && has_ended(pid, start);
}

std::string locked_object(const std::string& id) {
  return "rbd_header." + id;
}

std::optional<Locker> locker_of(const PoolContext& context, const std::string& object) {
  int exclusive = 0;
  std::string tag(256, '\0');
  std::string clients(256, '\0');
  std::string cookies(512, '\0');
  std::string addresses(512, '\0');
  std::size_t tag_size = tag.size();
  std::size_t clients_size = clients.size();
  std::size_t cookies_size = cookies.size();
  std::size_t addresses_size = addresses.size();
  const ssize_t count =
      rados_list_lockers(context.get(), object.c_str(), lock_name, &exclusive, tag.data(), &tag_size, clients.data(),
                         &clients_size, cookies.data(), &cookies_size, addresses.data(), &addresses_size);
  if (count <= 0) return std::nullopt;
  return Locker{clients.c_str(), cookies.c_str(), addresses.c_str()};
}

std::optional<Locker> dead_locker_of(const PoolContext& context, const std::string& object) {
  std::optional<Locker> holder = locker_of(context, object);
  return holder && has_died(holder->cookie) ? holder : std::nullopt;
}

class Lock : public RbdLock {
 public:
  Lock(std::shared_ptr<PoolContext> context, rbd_image_t image, const std::string& id, std::string words)
      : context_(std::move(context)), words_(std::move(words)), object_(locked_object(id)), cookie_(own_cookie()) {
    int result = take(0);
    if (result == -EBUSY || result == -EEXIST)
      if (const std::optional<Locker> dead = dead_locker_of(*context_, object_); dead) {
        free_from(image, *dead);
        result = take(0);
      }
    if (result == -EBUSY || result == -EEXIST) {
      const std::optional<Locker> holder = locker_of(*context_, object_);
      throw Locked(fmt::format("{} is being written by another stillpoint, {}", words_,
                               holder ? fmt::format("{} at {}", holder->client, holder->address) : "which has ended"),
                   "try again when that is done");
    }
    ceph_check(result, fmt::format("cannot lock {}", words_));
    renewer_ = std::jthread([this] { renew(); });
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    renewer_.join();
    if (!lost_) rados_unlock(context_->get(), object_.c_str(), lock_name, cookie_.c_str());
  }

  void check() override {
    if (lost_ || SteadyClock::now() - renewed_.load() > lock_term - lock_margin)
      throw Locked(fmt::format("the lock of {} was lost: this took too long to answer", words_), "try again");
  }

 private:
  int take(std::uint8_t flags) {
    timeval term{};
    term.tv_sec = lock_term.count();
    const auto begun = SteadyClock::now();
    const int result =
        rados_lock_exclusive(context_->get(), object_.c_str(), lock_name, cookie_.c_str(), "", &term, flags);
    if (result == 0) renewed_ = begun;
    return result;
  }

  void renew() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, lock_renewal, [this] { return ending_; })) {
      lock.unlock();
      const int result = take(LIBRADOS_LOCK_FLAG_MUST_RENEW);
      lock.lock();
      if (result == -ENOENT || (result != 0 && SteadyClock::now() - renewed_.load() > lock_term)) lost_ = true;
      if (lost_) return;
    }
  }

  /// librbd would wait until the dead client's watch ends, half a minute.
  void free_from(rbd_image_t image, const Locker& dead) {
    rbd_lock_mode_t mode = RBD_LOCK_MODE_EXCLUSIVE;
    std::array<char*, 8> owners{};
    std::size_t count = owners.size();
    if (rbd_lock_get_owners(image, &mode, owners.data(), &count) == 0) {
      for (std::size_t i = 0; i < count; ++i)
        if (same_client(dead.address, owners[i])) {
          const int result = rbd_lock_break(image, mode, owners[i]);
          if (result < 0)
            log_warning("{}", errno_message(fmt::format("{}: its dead writer's lock stays", words_), -result));
        }
      rbd_lock_get_owners_cleanup(owners.data(), count);
    }
    const int result =
        rados_break_lock(context_->get(), object_.c_str(), lock_name, dead.client.c_str(), dead.cookie.c_str());
    if (result != -ENOENT) ceph_check(result, fmt::format("cannot break the lock of {}", words_));
  }

  std::shared_ptr<PoolContext> context_;
  std::string words_;
  std::string object_;
  std::string cookie_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::atomic<bool> lost_{false};
  std::atomic<SteadyClock::time_point> renewed_{};  ///< when the last renewal that succeeded was begun
  std::jthread renewer_;
};

}  // namespace

std::string dead_lock_holder(const PoolContext& context, const std::string& id) {
  const std::optional<Locker> dead = dead_locker_of(context, locked_object(id));
  return dead ? dead->address : std::string();
}

bool same_client(std::string_view a, std::string_view b) {
  if (a.size() < b.size()) std::swap(a, b);
  return !b.empty() && a.ends_with(b) && (a.size() == b.size() || a[a.size() - b.size() - 1] == ':');
}

std::unique_ptr<RbdLock> make_rbd_lock(std::shared_ptr<PoolContext> context, rbd_image_t image, const std::string& id,
                                       const std::string& words) {
  return std::make_unique<Lock>(std::move(context), image, id, words);
}

}  // namespace stillpoint
