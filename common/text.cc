// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/text.hh"

#include <fmt/format.h>
#include <glib.h>

namespace stillpoint {

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const auto escape = [&](char c) { out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c)); };
  while (!text.empty()) {
    const gunichar c = g_utf8_get_char_validated(text.data(), static_cast<gssize>(text.size()));
    // Errors are (gunichar)-1 and -2, a NUL is 0: none of them is printable.
    const bool valid = c != 0 && c < 0x110000;
    const std::size_t length = valid ? static_cast<std::size_t>(g_utf8_skip[static_cast<guchar>(text.front())]) : 1;
    // Marks that turn the direction of writing, which would disguise a name, do not count as printable either.
    if (valid && g_unichar_isprint(c) != 0)
      out += text.substr(0, length);
    else
      for (const char byte : text.substr(0, length))
        escape(byte);
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace stillpoint
