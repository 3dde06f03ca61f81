// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"

#include <exception>
#include <string_view>

namespace stillpoint {

/// The name of a code in JSON: "not_found".
[[nodiscard]] std::string_view to_string(ExitCode code);

/// "stillpoint: backup: there is no domain 'x'", and the hint on a line of its own; a trailing newline.
[[nodiscard]] std::string error_text(const std::exception& error, std::string_view verb);

/// Says what went wrong on stderr, and with `json` as {"error": ...} on stdout. Returns the exit code.
ExitCode report_error(const std::exception& error, std::string_view verb, bool json) noexcept;

}  // namespace stillpoint
