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
#include <utility>
#include <vector>

namespace stillpoint {
namespace {

constexpr int child_socket = 3;
constexpr std::string_view program = "stillpoint-tree-worker";
/// Longer than any honest step takes: between two messages the worker only computes.
constexpr std::chrono::seconds answer_limit{60};

std::filesystem::path find_program() {
  if (const char* folder = std::getenv("STILLPOINT_LIBEXEC"); folder != nullptr && *folder != '\0')
    return std::filesystem::path(folder) / program;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string build = std::string(STILLPOINT_BUILD_DIR) + "/";
  if (!error && self.native().starts_with(build)) return std::filesystem::path(build) / "host/capture" / program;
  return std::filesystem::path(STILLPOINT_LIBEXEC) / program;
}

pid_t start(const std::filesystem::path& path, int socket) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // By way of a number that the range below does not hold.
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
  posix_spawn_file_actions_adddup2(&actions, 0, 1);
  posix_spawn_file_actions_adddup2(&actions, 0, 2);
  posix_spawn_file_actions_adddup2(&actions, socket, child_socket);
  posix_spawn_file_actions_addclosefrom_np(&actions, child_socket + 1);
  std::string name(program);
  std::array<char*, 2> argv = {name.data(), nullptr};
  std::array<char*, 1> environment = {nullptr};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, path.c_str(), &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw CaptureError(errno_message(fmt::format("cannot start {}", path.native()), error),
                       "it belongs to the package of the companion: install it again");
  return pid;
}

}  // namespace

TreeWorker::TreeWorker() {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0)
    throw_errno<CaptureError>("cannot make a socket for the file system's worker");
  socket_ = UniqueFd(pair[0]);
  UniqueFd child(pair[1]);
  // dup2() onto itself would leave close-on-exec set.
  if (child.get() == child_socket) {
    child = UniqueFd(::fcntl(child.get(), F_DUPFD_CLOEXEC, child_socket + 1));
    if (!child) throw_errno<CaptureError>("cannot make a socket for the file system's worker");
  }
  pid_ = start(find_program(), child.get());
}

TreeWorker::~TreeWorker() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void TreeWorker::died() {
  ::kill(pid_, SIGKILL);
  int status = 0;
  while (::waitpid(std::exchange(pid_, -1), &status, 0) < 0 && errno == EINTR) {
  }
  throw CaptureError(
      WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL
          ? fmt::format("the file system's worker was ended by signal {} ({}): the file system is damaged, or hostile",
                        WTERMSIG(status), ::strsignal(WTERMSIG(status)))
          : std::string("the file system's worker ended"));
}

void TreeWorker::wait_for(short events) {
  const Deadline deadline(answer_limit);
  for (;;) {
    pollfd ready = {socket_.get(), events, 0};
    const int count = ::poll(&ready, 1, deadline.poll_timeout());
    if (count > 0) return;
    if (count < 0 && errno != EINTR) throw_errno<CaptureError>("cannot wait for the file system's worker");
    if (deadline.passed()) {
      ::kill(pid_, SIGKILL);
      throw CaptureError(fmt::format("the file system's worker said nothing for {} s", answer_limit.count()));
    }
  }
}

void TreeWorker::send(std::string_view message) {
  while (!message.empty()) {
    const ssize_t n = ::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      message.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      wait_for(POLLOUT);
    } else if (errno != EINTR) {
      died();
    }
  }
}

void TreeWorker::receive_exactly(std::span<char> buffer) {
  while (!buffer.empty()) {
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n > 0) {
      buffer = buffer.subspan(static_cast<std::size_t>(n));
    } else if (n == 0 || errno == ECONNRESET) {
      died();
    } else if (errno == EAGAIN) {
      wait_for(POLLIN);
    } else if (errno != EINTR) {
      throw_errno<CaptureError>("cannot hear the file system's worker");
    }
  }
}

void TreeWorker::receive_one() {
  std::array<char, wire::header_bytes> bytes{};
  receive_exactly(bytes);
  const wire::Header header = wire::parse_header({bytes.data(), bytes.size()});
  message_.type = header.type;
  // In steps: a length alone costs nobody memory.
  for (std::size_t at = 0; at < header.length;) {
    const std::size_t step = std::min<std::size_t>(header.length - at, wire::max_read);
    if (message_.payload.size() < at + step) message_.payload.resize(at + step);
    receive_exactly(std::span(message_.payload).subspan(at, step));
    at += step;
  }
  message_.payload.resize(header.length);
}

void TreeWorker::answer(BlockReader& disk) {
  wire::Reader reader(message_.payload);
  const std::uint64_t offset = reader.u64();
  const std::uint32_t length = reader.u32();
  if (length == 0 || length > wire::max_read || offset > disk.size() || length > disk.size() - offset)
    throw CaptureError("the file system's worker asked for blocks outside the disk");
  const std::size_t bytes = wire::header_bytes + length;
  if (answer_.size() < bytes) answer_.resize(bytes);
  wire::write_header(wire::Type::blocks, length, std::span(answer_).first<wire::header_bytes>());
  disk.pread(std::span(answer_).subspan(wire::header_bytes, length), offset);
  send(as_text(std::span(answer_).first(bytes)));
}

const wire::Message& TreeWorker::receive(BlockReader& disk) {
  for (;;) {
    receive_one();
    if (message_.type != wire::Type::read) return message_;
    answer(disk);
  }
}

}  // namespace stillpoint
