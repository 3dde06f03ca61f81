// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/protocol.hh"

#include "common/errors.hh"
#include "common/frame.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint::protocol {

namespace {

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '+' || c == '@' || c == '-';
}

}  // namespace

bool is_dump_name(std::string_view name) {
  if (name.empty() || name.size() > 255) return false;
  std::size_t parts = 0;
  while (true) {
    const std::size_t slash = name.find('/');
    const std::string_view part = name.substr(0, slash);
    if (part.empty() || part == "." || part == ".." || ++parts > 4) return false;
    if (!std::all_of(part.begin(), part.end(), [](char c) { return is_plain(c) || c == '%'; })) return false;
    if (slash == std::string_view::npos) return parts >= 2;
    name.remove_prefix(slash + 1);
  }
}

std::string dump_name_part(std::string_view text) {
  std::string part;
  for (const char c : text) {
    // A leading dot would make "." and "..", or a hidden file.
    if (is_plain(c) && !(c == '.' && part.empty()))
      part += c;
    else
      part += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return part;
}

Json message(std::string_view type) {
  return Json{{"type", type}};
}

Json error_message(std::string_view request, std::string_view text) {
  return Json{{"type", type::error}, {"request", request}, {"message", text}};
}

Json parse_message(std::string_view payload) {
  Json parsed = parse_json(payload, "a control message", {max_control_bytes, 16});
  static_cast<void>(json_string(parsed, "type", 32));
  return parsed;
}

std::string encode(const Json& message) {
  return encode_frame(FrameType::control, 0, dump_json(message));
}

}  // namespace stillpoint::protocol
