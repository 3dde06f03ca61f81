// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/listening-sockets.hh"

#include "agent/os-user.hh"
#include "common/errors.hh"
#include "common/file.hh"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t longest_table = std::size_t{64} << 20;
/// __SO_ACCEPTCON in the column of flags.
constexpr std::string_view listening = "00010000";
constexpr std::string_view stream = "0001";
/// Debian, Red Hat and SUSE give people numbers from here on.
constexpr uid_t first_person = 1000;

std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const std::string_view word = line.substr(0, line.find(' '));
  line.remove_prefix(word.size());
  return word;
}

}  // namespace

std::vector<ListeningSocket> parse_listening_sockets(std::string_view table) {
  std::vector<ListeningSocket> sockets;
  while (!table.empty()) {
    std::string_view line = table.substr(0, table.find('\n'));
    table.remove_prefix(std::min(table.size(), line.size() + 1));
    // Num RefCount Protocol Flags Type St Inode Path: a path may have blanks.
    for (int skipped = 0; skipped < 3; ++skipped)
      take_word(line);
    const bool wanted = take_word(line) == listening && take_word(line) == stream;
    take_word(line);
    const std::string_view inode = take_word(line);
    if (!wanted || line.size() < 2 || line[1] == '@') continue;
    ListeningSocket socket{std::string(line.substr(1)), 0};
    std::from_chars(inode.data(), inode.data() + inode.size(), socket.inode);
    sockets.push_back(std::move(socket));
  }
  return sockets;
}

std::vector<ListeningSocket> listening_sockets() {
  try {
    return parse_listening_sockets(read_text("/proc/net/unix", longest_table));
  } catch (const Error&) {
    return {};
  }
}

std::optional<pid_t> process_of(const ListeningSocket& socket) {
  const std::string wanted = fmt::format("socket:[{}]", socket.inode);
  std::error_code error;
  for (fs::directory_iterator process("/proc", error), end; !error && process != end; process.increment(error)) {
    const auto pid = static_cast<pid_t>(std::strtol(process->path().filename().c_str(), nullptr, 10));
    if (pid <= 0) continue;
    std::error_code gone;
    for (fs::directory_iterator fd(process->path() / "fd", gone); !gone && fd != end; fd.increment(gone)) {
      std::error_code closed;
      if (fs::read_symlink(fd->path(), closed) == wanted) return pid;
    }
  }
  return {};
}

std::optional<uid_t> user_of(pid_t process) {
  try {
    // Not the owner of /proc/<pid>: that is root for a server that has changed its user.
    const std::string status = read_text(fmt::format("/proc/{}/status", process), 1 << 20);
    const std::size_t at = status.find("\nUid:");
    if (at == std::string::npos) return {};
    return static_cast<uid_t>(std::strtoul(status.c_str() + at + 5, nullptr, 10));
  } catch (const Error&) {
    return {};
  }
}

bool may_run_servers(uid_t uid, const std::string& account) {
  if (uid < first_person || uid == ::geteuid()) return true;
  const std::optional<OsUser> user = find_os_user(account);
  return user && user->uid == uid;
}

std::string why_not_trusted(const std::string& path, const std::string& account, bool named) {
  struct stat socket {};
  struct stat directory {};
  if (::stat(path.c_str(), &socket) != 0 || ::stat(fs::path(path).parent_path().c_str(), &directory) != 0)
    return errno_message("cannot be looked at", errno);
  if (may_run_servers(socket.st_uid, account) || (named && (directory.st_mode & S_IWOTH) == 0)) return {};
  return fmt::format("belongs to user {}, under whom no server of the system runs", socket.st_uid);
}

}  // namespace stillpoint
