// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/output.hh"

#include "common/file.hh"

#include <unistd.h>

namespace stillpoint {

void print_result(std::string_view text) {
  write_all(STDOUT_FILENO, as_bytes(text), "standard output");
}

void print_json(const Json& document) {
  print_result(dump_json(document, 2) + '\n');
}

}  // namespace stillpoint
