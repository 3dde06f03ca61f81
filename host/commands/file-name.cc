// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/file-name.hh"

#include "common/errors.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

/// Where the still point's name ends: times have colons of their own, and end in "Z".
std::size_t name_end(std::string_view text) {
  // Subvolumes like to be called "vda2/@home".
  const std::size_t at = text.substr(0, text.find('/')).rfind('@');
  if (at == std::string_view::npos) return std::min(text.find(':'), text.size());
  const std::string_view time = text.substr(at + 1);
  const std::size_t z = time.find('Z');
  if (z != std::string_view::npos && !time.starts_with("latest")) return at + 1 + z + 1;
  return at + 1 + std::min(time.find(':'), time.size());
}

}  // namespace

FileName parse_file_name(std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return UsageError(fmt::format("'{}' {}", text, why),
                      "files look like web1@latest:/etc/hosts or web1:vda1:/etc/hosts");
  };
  // An "@" may also stand in a path; domains have no "/".
  const std::size_t slash = text.find(":/");
  const std::string_view head = text.substr(0, slash);
  FileName name;
  if (slash != std::string_view::npos) name.path = text.substr(slash + 1);
  const std::size_t end = name_end(head);
  name.still_point = head.substr(0, end);
  if (name.still_point.empty()) throw wrong("names no still point");
  const std::string_view rest = head.substr(end);
  if (rest.empty()) return name;
  if (rest.front() != ':' || rest.size() == 1 || rest.find(':', 1) != std::string_view::npos)
    throw wrong("is no name of a file");
  if (name.path.empty()) throw wrong("has no path that begins with /");
  name.file_system = rest.substr(1);
  return name;
}

}  // namespace stillpoint
