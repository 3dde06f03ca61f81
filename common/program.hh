// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/file.hh"

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// An account of the operating system, read once so that a child can become it without asking again.
struct OsUser {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

/// What to run: never through a shell.
struct Program {
  std::filesystem::path path;            ///< absolute
  std::vector<std::string> arguments;    ///< without the program's name
  std::vector<std::string> environment;  ///< "NAME=value", all of it: nothing is inherited
  std::optional<OsUser> user;            ///< whom to run as; ours when empty
};

/// Where a program's descriptors lead. Not owned.
struct ProgramDescriptors {
  int output;
  int errors;
  int lifeline = -1;  ///< becomes its descriptor 3, where there is one
  int input = -1;     ///< /dev/null where there is none
};

/// The program of that name in one of the directories of PATH; empty when there is none.
[[nodiscard]] std::filesystem::path program_on_path(const std::string& name);

/// All of ours, for a program that is to have it.
[[nodiscard]] std::vector<std::string> own_environment();

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

/// Throws CaptureError.
[[nodiscard]] Pipe open_pipe(std::string_view what);

/// What a program writes to a pipe, taken while it is waited for. Bounded in memory.
class Intake {
 public:
  enum class Keep {
    all,  ///< what is longer than the limit ends the program: its pipe breaks
    end,  ///< of what is longer, the end
  };

  Intake(UniqueFd pipe, std::size_t limit, Keep keep) noexcept;
  /// -1 when there is nothing more to come.
  [[nodiscard]] int fd() const noexcept { return pipe_.get(); }
  /// Takes what is there now, without waiting.
  void take();
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  [[nodiscard]] bool too_long() const noexcept { return too_long_; }

 private:
  UniqueFd pipe_;
  std::size_t limit_;
  Keep keep_;
  std::string text_;
  bool too_long_ = false;
};

/// A program that was started: it leads a process group of its own.
class RunningProgram {
 public:
  RunningProgram() noexcept = default;
  /// One that another call has started.
  explicit RunningProgram(pid_t leader) noexcept : pid_(leader) {}
  /// Starts it in /, with no other descriptor of ours. Throws CaptureError when it
  /// cannot be started.
  RunningProgram(const Program& program, const ProgramDescriptors& descriptors);
  RunningProgram(RunningProgram&& other) noexcept;
  RunningProgram& operator=(RunningProgram&& other) noexcept;
  /// As end_group().
  ~RunningProgram();

  /// False for none, and for one that was reaped.
  explicit operator bool() const noexcept { return pid_ > 0; }

  /// Waits for the leader's end, and takes in what it writes. False when the deadline passed or `cancelled` (a
  /// descriptor) became readable before. The leader is not reaped: until then its group's number is nobody else's.
  [[nodiscard]] bool wait(const Deadline& deadline, std::span<Intake> intakes = {}, int cancelled = -1) const;
  /// After wait(): the leader's wait status, as describe_status() has it. It stays a zombie, so that its group's number
  /// is nobody else's while what it has left behind runs.
  [[nodiscard]] int status() const noexcept;
  /// After wait(): reaps the leader, and leaves what it has left behind. Its wait status.
  [[nodiscard]] int reap() noexcept;
  /// SIGTERM to the whole group, for one that has something to put away: wait() follows.
  void ask_to_end() const noexcept;
  /// Kills the whole group, waits at most 2 s for the leader, and reaps it. Its wait status. Idempotent.
  int end_group() noexcept;

 private:
  pid_t pid_ = -1;
};

/// How a program ended: "exit status 3", "ended by signal 9"; empty for success.
[[nodiscard]] std::string describe_status(int status);

/// A program that lies in a directory for others to put theirs into.
struct FoundProgram {
  std::filesystem::path path;
  std::string fault;  ///< why it must not be run; empty when it may
};

/// The executable regular files of the directories, by their file names across all directories; editors' and package
/// managers' leftovers are not meant. One that others than root could have written has a fault, and so has a directory
/// that cannot be read; one that is missing is empty.
[[nodiscard]] std::vector<FoundProgram> find_programs(const std::vector<std::filesystem::path>& directories);

}  // namespace stillpoint
