// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/guest-text.hh"

namespace stillpoint {

namespace {

constexpr std::size_t longest = 1000;

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

}  // namespace

std::string shown(std::string_view text) {
  std::string out(text.substr(0, longest));
  // U+0080 to U+009F are control characters as well, C2 80 to C2 9F in UTF-8.
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (is_control(out[i])) out[i] = ' ';
    if (out[i] == '\xc2' && i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xa0 &&
        static_cast<unsigned char>(out[i + 1]) >= 0x80)
      out[i] = out[i + 1] = ' ';
  }
  return out;
}

}  // namespace stillpoint
