// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/json.hh"

#include <string_view>

namespace stillpoint {

/// Writes results to standard output. Throws StorageError: a result that nobody received is no success.
void print_result(std::string_view text);
/// Indented, with a newline.
void print_json(const Json& document);

}  // namespace stillpoint
