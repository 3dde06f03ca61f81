// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/engine.hh"
#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstddef>
#include <string_view>
#include <utility>

namespace stillpoint {

namespace {

/// Bytes of the tool's standard error that an operator gets to read.
constexpr std::size_t max_tail = 4096;

}  // namespace

RunningDump::RunningDump(RunningProgram tool, UniqueFd output, UniqueFd errors, const char* what) noexcept
    : tool_(std::move(tool)),
      output_(std::move(output)),
      errors_(std::move(errors), max_tail, Intake::Keep::end),
      what_(what) {
  if (output_) ::fcntl(output_.get(), F_SETFL, ::fcntl(output_.get(), F_GETFL) | O_NONBLOCK);
}

RunningDump::RunningDump(UniqueFd output) noexcept : RunningDump(RunningProgram(), std::move(output), UniqueFd()) {
  succeeded_ = true;
}

std::string RunningDump::finish(const Deadline& deadline) {
  if (succeeded_) return {};  // over before it was handed out
  if (!tool_) return fmt::format("{} does not run any more", what_);
  const bool ended = tool_.wait(deadline, {&errors_, 1});
  const int status = tool_.end_group();  // also what the tool may have left behind
  errors_.take();
  const std::string failure = ended ? describe_status(status) : "it did not end in time";
  if (failure.empty()) return {};
  std::string_view tail = errors_.text();
  while (!tail.empty() && (tail.back() == '\n' || tail.back() == '\r'))
    tail.remove_suffix(1);
  return fmt::format("{} failed: {}{}{}", what_, failure, tail.empty() ? "" : ": ", tail);
}

RunningCheck Engine::start_check(std::string_view name) {
  throw NotFound(fmt::format("nothing is there that checks {}", name));
}

}  // namespace stillpoint
