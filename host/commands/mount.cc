// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/file.hh"
#include "common/log-writer.hh"
#include "host/commands/command.hh"
#include "host/commands/error-output.hh"
#include "host/commands/format.hh"
#include "host/commands/interrupt.hh"
#include "host/commands/output.hh"
#include "host/commands/tree-layout.hh"
#include "host/restore/fuse-mount.hh"
#include "host/restore/mounted-point.hh"

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

struct MountOptions {
  std::string first;
  std::string second;  ///< empty when `first` is the directory
  bool allow_other = false;
  bool background = false;
};

/// Called once it is mounted, with what is to be told of it.
using Ready = std::function<void(const std::string& text)>;

/// An empty one, as an absolute path. Throws UsageError.
fs::path check_mount_point(const std::string& name) {
  std::error_code error;
  const fs::path path = fs::canonical(name, error);
  if (error == std::errc::not_connected)
    throw UsageError(fmt::format("{} is a mount whose program has died", printable(name)),
                     fmt::format("unmount it first: umount -l {}", printable(name)));
  if (error || !fs::is_directory(path, error))
    throw UsageError(fmt::format("{} is no directory to mount on", printable(name)),
                     "make it, or name another one; without a NAME before it, all still points are mounted");
  if (!fs::is_empty(path, error) || error)
    throw UsageError(fmt::format("the directory {} is not empty", printable(name)), "name an empty one");
  return path;
}

std::string ready_text(const std::string& what, const fs::path& directory, bool json) {
  if (json) return dump_json({{"name", what}, {"directory", directory.native()}}, 2) + '\n';
  return fmt::format("{} is mounted read-only at {}; fusermount3 -u {} ends it\n",
                     what.empty() ? "the repository" : printable(what), printable(directory.native()),
                     printable(directory.native()));
}

ExitCode mount_and_serve(const MountOptions& options, const Invocation& invocation, const fs::path& directory,
                         const std::stop_token& stop, const Ready& ready) {
  Repository repository = invocation.open(Repository::Mode::read);
  const auto name_partition = [](std::string_view target, std::uint32_t partition) {
    return file_system_name(target, partition);
  };
  MountShared shared(repository, name_partition, stop);
  std::unique_ptr<MountedPoint> point;
  MountNode::Shared root;
  std::string name;
  if (options.second.empty()) {
    root = mount_all(shared);
  } else {
    Manifest manifest = repository.load(options.first);
    name = manifest.name;
    point = std::make_unique<MountedPoint>(shared, std::move(manifest));
    root = point->root();
  }
  FuseMount mount(root, {.directory = directory,
                         .source = name.empty() ? "stillpoint" : "stillpoint:" + name,
                         .allow_other = options.allow_other});
  ready(ready_text(name, directory, invocation.json));
  mount.serve(stop);
  return ExitCode::success;
}

/// Leaves the terminal and whoever waits for what is written to it.
void go_to_background() {
  ::setsid();
  ::openlog("stillpoint", LOG_PID, LOG_DAEMON);
  set_log_writer([](std::string_view line) { ::syslog(LOG_WARNING, "%s", std::string(line).c_str()); });
  const UniqueFd nothing = open_file("/dev/null", O_RDWR);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    ::dup2(nothing.get(), fd);
}

/// Waits until the child has mounted, or has said what is wrong.
ExitCode await_child(pid_t child, UniqueFd read_end) {
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t n = 1; n != 0;) {
    n = ::read(read_end.get(), part.data(), part.size());
    if (n > 0) text.append(part.data(), static_cast<std::size_t>(n));
    if (n < 0 && errno != EINTR) break;
  }
  if (!text.empty()) {
    print_result(text);
    return ExitCode::success;
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? static_cast<ExitCode>(WEXITSTATUS(status)) : ExitCode::failure;
}

/// The same in a child, which stays.
ExitCode mount_in_background(const MountOptions& options, const Invocation& invocation, const fs::path& directory) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("cannot make a pipe");
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  // Before there are threads: one that watches for signals is all there is, and the child makes its own.
  const pid_t child = ::fork();
  if (child < 0) throw_errno("cannot start a process for the background");
  if (child > 0) {
    write_end.reset();
    return await_child(child, std::move(read_end));
  }
  read_end.reset();
  ExitCode code = ExitCode::failure;
  try {
    const Interrupt interrupt;
    code = mount_and_serve(options, invocation, directory, interrupt.token(), [&](const std::string& text) {
      go_to_background();
      write_all(write_end.get(), as_bytes(text), "the pipe to the terminal");
      write_end.reset();
    });
  } catch (const std::exception& error) {
    code = report_error(error, "mount", invocation.json);
  }
  // What lies above is the parent's: it waits for threads that are not here.
  ::_exit(static_cast<int>(code));
}

ExitCode mount(const MountOptions& options, const Invocation& invocation) {
  const fs::path directory = check_mount_point(options.second.empty() ? options.first : options.second);
  if (options.background) return mount_in_background(options, invocation, directory);
  return mount_and_serve(options, invocation, directory, invocation.stop,
                         [](const std::string& text) { print_result(text); });
}

}  // namespace

RunVerb add_mount(CLI::App& parser) {
  const auto options = std::make_shared<MountOptions>();
  parser.add_option("NAME", options->first, "a still point, DOMAIN@latest or DOMAIN; without it, DIR shows all")
      ->required();
  parser.add_option("DIR", options->second, "an empty directory to mount on");
  parser.add_flag("--allow-other", options->allow_other, "let other users look too, as the modes of the files permit");
  parser.add_flag("--background", options->background, "return when it is mounted");
  parser.footer(
      "stillpoint mount NAME DIR shows one still point, stillpoint mount DIR all of the repository.\n"
      "Answers until it is unmounted or interrupted. Options of every verb: stillpoint --help");
  return [options](const Invocation& invocation) { return mount(*options, invocation); };
}

}  // namespace stillpoint
