// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/still-point-name.hh"

#include "common/errors.hh"
#include "common/json.hh"
#include "host/repository/chunk-id.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

constexpr std::size_t max_escaped = 240;  // file names have at most 255 bytes

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '+' ||
         c == '-' || c == '@' || c == '.';
}

bool is_utf8(std::string_view text) {
  try {
    static_cast<void>(Json(std::string(text)).dump());
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

}  // namespace

std::string escape_domain(std::string_view domain) {
  const auto refuse = [&](std::string_view why) {
    throw UsageError(fmt::format("'{}' cannot be the name of a domain: {}", domain.substr(0, 80), why));
  };
  if (domain.empty()) refuse("it is empty");
  if (!is_utf8(domain)) refuse("it is not UTF-8");
  const bool odd = std::any_of(domain.begin(), domain.end(),
                               [](char c) { return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  if (odd) refuse("it has a slash or a control character");
  std::string text;
  for (const char c : domain) {
    if (is_plain(c) && !(c == '.' && text.empty()))
      text += c;
    else
      text += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  if (text.size() > max_escaped) refuse("it is too long");
  return text;
}

std::optional<std::string> unescape_domain(std::string_view text) {
  std::string domain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      domain += text[i];
      continue;
    }
    std::string hex(text.substr(i + 1, 2));
    std::transform(hex.begin(), hex.end(), hex.begin(), [](char c) { return c >= 'A' && c <= 'F' ? c + 32 : c; });
    std::byte byte{};
    if (!hex_to_bytes(hex, {&byte, 1})) return std::nullopt;
    domain += static_cast<char>(byte);
    i += 2;
  }
  try {
    if (escape_domain(domain) != text) return std::nullopt;
  } catch (const UsageError&) {
    return std::nullopt;
  }
  return domain;
}

std::optional<WallTime> parse_name_time(std::string_view text) {
  try {
    const WallTime time = parse_time(text);
    if (format_time(time) == text || format_time_precise(time) == text) return time;
  } catch (const UsageError&) {
  }
  return std::nullopt;
}

StillPointName parse_still_point_name(std::string_view name) {
  const std::size_t at = name.rfind('@');
  if (at != std::string_view::npos && at > 0) {
    const std::string_view suffix = name.substr(at + 1);
    if (suffix == "latest") return {std::string(name.substr(0, at)), {}};
    if (parse_name_time(suffix)) return {std::string(name.substr(0, at)), std::string(suffix)};
  }
  return {std::string(name), {}};
}

std::string manifest_object(std::string_view domain, std::string_view time) {
  return fmt::format("manifests/{}/{}", escape_domain(domain), time);
}

std::optional<ManifestObject> parse_manifest_object(std::string_view object) {
  constexpr std::string_view prefix = "manifests/";
  if (!object.starts_with(prefix)) return std::nullopt;
  object.remove_prefix(prefix.size());
  const std::size_t slash = object.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::optional<std::string> domain = unescape_domain(object.substr(0, slash));
  const std::string_view time = object.substr(slash + 1);
  const std::optional<WallTime> instant = parse_name_time(time);
  if (!domain || !instant) return std::nullopt;
  return ManifestObject{*domain, std::string(time), *instant};
}

}  // namespace stillpoint
