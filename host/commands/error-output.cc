// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/error-output.hh"

#include "common/file.hh"
#include "common/json.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"

#include <fmt/format.h>
#include <unistd.h>

namespace stillpoint {

namespace {

const Error* known(const std::exception& error) {
  return dynamic_cast<const Error*>(&error);
}

ExitCode code_of(const std::exception& error) {
  const Error* e = known(error);
  return e != nullptr ? e->exit_code() : ExitCode::failure;
}

}  // namespace

std::string_view to_string(ExitCode code) {
  switch (code) {
    case ExitCode::success:
      return "success";
    case ExitCode::failure:
      return "failure";
    case ExitCode::usage:
      return "usage";
    case ExitCode::configuration:
      return "configuration";
    case ExitCode::not_found:
      return "not_found";
    case ExitCode::unreachable:
      return "unreachable";
    case ExitCode::quiesce:
      return "quiesce";
    case ExitCode::capture:
      return "capture";
    case ExitCode::storage:
      return "storage";
    case ExitCode::corruption:
      return "corruption";
    case ExitCode::locked:
      return "locked";
    case ExitCode::interrupted:
      return "interrupted";
    case ExitCode::incomplete:
      return "incomplete";
    case ExitCode::drill_failed:
      return "drill_failed";
  }
  return "failure";
}

std::string error_text(const std::exception& error, std::string_view verb) {
  std::string text = "stillpoint: ";
  if (!verb.empty()) text += fmt::format("{}: ", verb);
  const Error* e = known(error);
  if (e == nullptr) text += "unexpected: ";
  text += printable(error.what()) + '\n';
  if (e != nullptr && !e->hint().empty()) text += "  " + printable(e->hint()) + '\n';
  return text;
}

ExitCode report_error(const std::exception& error, std::string_view verb, bool json) noexcept {
  try {
    write_all(STDERR_FILENO, as_bytes(error_text(error, verb)), "standard error");
    if (json) {
      const Error* e = known(error);
      print_json({{"error",
                   {{"code", static_cast<int>(code_of(error))},
                    {"kind", to_string(code_of(error))},
                    {"message", error.what()},
                    {"hint", e != nullptr ? e->hint() : std::string()}}}});
    }
  } catch (const std::exception&) {
    // Nobody listens: the exit code is left.
  }
  return code_of(error);
}

}  // namespace stillpoint
