// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-worker.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "config.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace stillpoint {
namespace {

constexpr int child_socket = 3;
constexpr int child_blocks = 4;
constexpr int not_found_status = 127;
/// For one that has to put something away; otherwise it is killed at once.
constexpr std::chrono::seconds end_limit{3};
constexpr std::chrono::milliseconds stop_interval{200};

pid_t start(const std::filesystem::path& path, const WorkerProgram& program, int socket, int blocks) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // Ours have numbers beyond these: nothing is overwritten before it is copied.
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
  posix_spawn_file_actions_adddup2(&actions, 0, 1);
  if (!program.has_errors) posix_spawn_file_actions_adddup2(&actions, 0, 2);
  posix_spawn_file_actions_adddup2(&actions, socket, child_socket);
  if (blocks >= 0) posix_spawn_file_actions_adddup2(&actions, blocks, child_blocks);
  posix_spawn_file_actions_addclosefrom_np(&actions, blocks >= 0 ? child_blocks + 1 : child_socket + 1);
  std::string name(program.name);
  std::array<char*, 2> argv = {name.data(), nullptr};
  std::vector<std::string> variables = program.environment;
  std::vector<char*> environment;
  for (std::string& variable : variables)
    environment.push_back(variable.data());
  environment.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, path.c_str(), &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw CaptureError(errno_message(fmt::format("cannot start {}", path.native()), error),
                       "it belongs to the package of the companion: install it again");
  return pid;
}

struct SocketPair {
  UniqueFd ours;
  UniqueFd child;
};

SocketPair open_sockets(std::string_view whose) {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0)
    throw_errno<CaptureError>(fmt::format("cannot make a socket for {}", whose));
  SocketPair sockets{UniqueFd(pair[0]), UniqueFd(pair[1])};
  // dup2() onto itself would leave close-on-exec set.
  sockets.child = UniqueFd(::fcntl(sockets.child.get(), F_DUPFD_CLOEXEC, child_blocks + 1));
  if (!sockets.child) throw_errno<CaptureError>(fmt::format("cannot make a socket for {}", whose));
  return sockets;
}

}  // namespace

std::filesystem::path worker_path(std::string_view program) {
  if (const char* folder = std::getenv("STILLPOINT_LIBEXEC"); folder != nullptr && *folder != '\0')
    return std::filesystem::path(folder) / program;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string build = std::string(STILLPOINT_BUILD_DIR) + "/";
  if (!error && self.native().starts_with(build)) return std::filesystem::path(build) / "host/capture" / program;
  return std::filesystem::path(STILLPOINT_LIBEXEC) / program;
}

TreeWorker::TreeWorker(WorkerProgram program) : program_(std::move(program)) {
  SocketPair questions = open_sockets(program_.words);
  SocketPair blocks = program_.asks_for_blocks_apart ? open_sockets(program_.words) : SocketPair();
  socket_ = std::move(questions.ours);
  blocks_ = std::move(blocks.ours);
  pid_ = start(worker_path(program_.name), program_, questions.child.get(), blocks.child ? blocks.child.get() : -1);
}

TreeWorker::~TreeWorker() {
  if (pid_ <= 0) return;
  socket_.reset();
  blocks_.reset();
  if (program_.asks_for_blocks_apart) {
    const Deadline limit(end_limit);
    while (!limit.passed()) {
      if (::waitpid(pid_, nullptr, WNOHANG) == pid_) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void TreeWorker::died() {
  // Said once, and its number is nobody's any more: kill(-1) would end everything there is.
  if (pid_ <= 0) throw CaptureError(fmt::format("{} ended", program_.words));
  // It has closed its socket, and says why by its status when it ends by itself.
  ::kill(pid_, SIGKILL);
  int status = 0;
  while (::waitpid(std::exchange(pid_, -1), &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == not_found_status)
    throw CaptureError(fmt::format("{} lacks a library", program_.words),
                       blocks_ ? "install the package libguestfs0" : "install the companion's package again");
  throw CaptureError(WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL
                         ? fmt::format("{} was ended by signal {} ({}): the file system is damaged, or hostile",
                                       program_.words, WTERMSIG(status), ::strsignal(WTERMSIG(status)))
                         : fmt::format("{} ended", program_.words));
}

void TreeWorker::wait_for(int socket, short events) {
  for (;;) {
    if (program_.stop.stop_requested()) throw Interrupted("stopped while reading a file system");
    pollfd ready = {socket, events, 0};
    const bool can_stop = program_.stop.stop_possible();
    const int count = ::poll(&ready, 1, can_stop ? limit_.poll_timeout(stop_interval) : limit_.poll_timeout());
    if (count > 0) return;
    if (count < 0 && errno != EINTR) throw_errno<CaptureError>(fmt::format("cannot wait for {}", program_.words));
    if (limit_.passed()) {
      if (pid_ > 0) ::kill(pid_, SIGKILL);
      throw CaptureError(fmt::format("{} said nothing for {} s", program_.words, program_.answer_limit.count()));
    }
  }
}

void TreeWorker::send(std::string_view message) {
  limit_ = Deadline(program_.answer_limit);
  send_to(socket_.get(), message);
}

void TreeWorker::send_to(int socket, std::string_view message) {
  while (!message.empty()) {
    const ssize_t n = ::send(socket, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      message.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      wait_for(socket, POLLOUT);
    } else if (errno != EINTR) {
      died();
    }
  }
}

void TreeWorker::receive_exactly(int socket, std::span<char> buffer) {
  while (!buffer.empty()) {
    const ssize_t n = ::recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n > 0) {
      buffer = buffer.subspan(static_cast<std::size_t>(n));
    } else if (n == 0 || errno == ECONNRESET) {
      died();
    } else if (errno == EAGAIN) {
      wait_for(socket, POLLIN);
    } else if (errno != EINTR) {
      throw_errno<CaptureError>(fmt::format("cannot hear {}", program_.words));
    }
  }
}

void TreeWorker::receive_one(int socket) {
  std::array<char, wire::header_bytes> bytes{};
  receive_exactly(socket, bytes);
  const wire::Header header = wire::parse_header({bytes.data(), bytes.size()});
  message_.type = header.type;
  // In steps: a length alone costs nobody memory.
  for (std::size_t at = 0; at < header.length;) {
    const std::size_t step = std::min<std::size_t>(header.length - at, wire::max_read);
    if (message_.payload.size() < at + step) message_.payload.resize(at + step);
    receive_exactly(socket, std::span(message_.payload).subspan(at, step));
    at += step;
  }
  message_.payload.resize(header.length);
}

void TreeWorker::answer(BlockReader& disk, int socket) {
  if (message_.type != wire::Type::read)
    throw CaptureError(fmt::format("{} asked for what there is not", program_.words));
  wire::Reader reader(message_.payload);
  const std::uint64_t offset = reader.u64();
  const std::uint32_t length = reader.u32();
  if (length == 0 || length > wire::max_read || offset > disk.size() || length > disk.size() - offset)
    throw CaptureError(fmt::format("{} asked for blocks outside the disk", program_.words));
  const std::size_t bytes = wire::header_bytes + length;
  if (answer_.size() < bytes) answer_.resize(bytes);
  wire::write_header(wire::Type::blocks, length, std::span(answer_).first<wire::header_bytes>());
  disk.pread(std::span(answer_).subspan(wire::header_bytes, length), offset);
  // How long the disk took is not the worker's fault, unless it can ask without an end.
  if (!blocks_) limit_ = Deadline(program_.answer_limit);
  send_to(socket, as_text(std::span(answer_).first(bytes)));
}

/// Brings blocks to who asks for them apart, until there is something on the other socket.
void TreeWorker::await_answer(BlockReader& disk) {
  for (;;) {
    std::array<pollfd, 2> ready = {pollfd{socket_.get(), POLLIN, 0}, pollfd{blocks_.get(), POLLIN, 0}};
    if (program_.stop.stop_requested()) throw Interrupted("stopped while reading a file system");
    const int count = ::poll(ready.data(), ready.size(), limit_.poll_timeout(stop_interval));
    if (count < 0 && errno != EINTR) throw_errno<CaptureError>(fmt::format("cannot wait for {}", program_.words));
    if (count > 0 && ready[0].revents != 0) return;
    if (limit_.passed()) {
      ::kill(pid_, SIGKILL);
      throw CaptureError(fmt::format("{} gave no answer for {} s", program_.words, program_.answer_limit.count()));
    }
    if (count > 0 && ready[1].revents != 0) {
      receive_one(blocks_.get());
      answer(disk, blocks_.get());
    }
  }
}

const wire::Message& TreeWorker::receive(BlockReader& disk) {
  limit_ = Deadline(program_.answer_limit);
  for (;;) {
    if (blocks_) await_answer(disk);
    receive_one(socket_.get());
    if (message_.type != wire::Type::read || blocks_) return message_;
    answer(disk, socket_.get());
    limit_ = Deadline(program_.answer_limit);
  }
}

}  // namespace stillpoint
