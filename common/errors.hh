// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace stillpoint {

/// What the process returns. The numbers are an interface: docs/man/stillpoint.1 lists them, and they never change.
enum class ExitCode : int {
  success = 0,
  failure = 1,        ///< unexpected: read the message, it may be a bug
  usage = 2,          ///< the command line is wrong: nothing was tried
  configuration = 3,  ///< repository or configuration unusable: fix it, then run again
  not_found = 4,      ///< no such domain, still point, disk, dump or file
  unreachable = 5,    ///< libvirt, the guest or the store does not answer: try again later
  quiesce = 6,        ///< the still point would be of a lower grade than required: look at the guest
  capture = 7,        ///< a disk, tree or dump could not be read: nothing was listed, try again
  storage = 8,        ///< the repository or the target cannot be written: make room, then run again
  corruption = 9,     ///< stored bytes do not match their id: run verify, restore another still point
  locked = 10,        ///< somebody else works on it: try again later
  interrupted = 11,   ///< stopped by a signal: everything was undone
  incomplete = 12,    ///< the still point is listed, but a dump, a tree or its domain's state failed: see show
  drill_failed = 13,  ///< the still point does not recover to what it promises: the drill says what is wrong
};

/// An error for the operator: one line that says what is wrong, and one that says what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, std::string hint = {}, ExitCode exit_code = ExitCode::failure)
      : std::runtime_error(message), hint_(std::move(hint)), exit_code_(exit_code) {}

  /// What to do next; empty when the message says it.
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }
  [[nodiscard]] ExitCode exit_code() const noexcept { return exit_code_; }

 private:
  std::string hint_;
  ExitCode exit_code_;
};

/// The kinds of errors are named by the reaction that they call for.
template <ExitCode Code>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message, std::string hint = {}) : Error(message, std::move(hint), Code) {}
};

using UsageError = ErrorOf<ExitCode::usage>;
using ConfigError = ErrorOf<ExitCode::configuration>;
using NotFound = ErrorOf<ExitCode::not_found>;
using Unreachable = ErrorOf<ExitCode::unreachable>;
using QuiesceError = ErrorOf<ExitCode::quiesce>;
using CaptureError = ErrorOf<ExitCode::capture>;
using StorageError = ErrorOf<ExitCode::storage>;
using Corruption = ErrorOf<ExitCode::corruption>;
using Locked = ErrorOf<ExitCode::locked>;
using Interrupted = ErrorOf<ExitCode::interrupted>;

/// The other side of a channel broke the protocol: the connection is of no further use.
class ProtocolError : public Unreachable {
 public:
  using Unreachable::Unreachable;
};

/// "cannot open /x: No such file or directory" for `errno_value`; a full or read-only target says so in its hint.
[[nodiscard]] std::string errno_message(std::string_view what, int errno_value);

/// Throws `E` with errno_message(what, errno). Call it right after the system call.
template <typename E = Error>
[[noreturn]] void throw_errno(std::string_view what);

/// Throws StorageError for a failed write with the hint that fits (full, quota, read-only), from `errno_value`.
[[noreturn]] void throw_storage_errno(std::string_view what, int errno_value);

}  // namespace stillpoint

#include <cerrno>

template <typename E>
[[noreturn]] void stillpoint::throw_errno(std::string_view what) {
  throw E(errno_message(what, errno));
}
