// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/repository/rados-store.hh"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <utility>

namespace stillpoint {

namespace {

constexpr const char* rados_form = "name it as rados://POOL[/NAMESPACE][?conf=FILE&id=USER&data-pool=POOL]";

[[noreturn]] void throw_malformed(std::string_view what) {
  throw ConfigError(fmt::format("the repository's url {}", what), rados_form);
}

/// With %XX as the byte that it stands for.
std::string percent_decoded(std::string_view text) {
  std::string plain;
  for (std::size_t at = 0; at < text.size(); ++at) {
    char byte = text[at];
    if (byte == '%') {
      unsigned value = 0;
      const char* const digits = text.data() + at + 1;
      const bool whole = text.size() - at > 2;
      if (!whole || std::from_chars(digits, digits + 2, value, 16).ptr != digits + 2)
        throw_malformed("has a '%' without two hexadecimal digits");
      byte = static_cast<char>(value);
      at += 2;
    }
    if (byte == '\0' || byte == '\n') throw_malformed("has a byte that cannot be in a name");
    plain += byte;
  }
  return plain;
}

std::string percent_encoded(std::string_view plain) {
  std::string text;
  for (const char byte : plain) {
    const bool stays = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
                       std::string_view("/._-@:+,").find(byte) != std::string_view::npos;
    text += stays ? std::string(1, byte) : fmt::format("%{:02X}", static_cast<unsigned char>(byte));
  }
  return text;
}

}  // namespace

RadosAddress parse_rados_address(std::string_view rest) {
  RadosAddress address;
  const std::size_t question = rest.find('?');
  const std::string_view place = rest.substr(0, question);
  const std::size_t slash = place.find('/');
  address.pool = percent_decoded(place.substr(0, slash));
  if (address.pool.empty()) throw_malformed("names no pool");
  if (slash != std::string_view::npos) {
    address.name_space = percent_decoded(place.substr(slash + 1));
    if (address.name_space.empty()) throw_malformed("names no namespace behind its '/'");
    if (address.name_space.find('/') != std::string::npos) throw_malformed("has a namespace with a '/'");
  }
  std::string_view options = question == std::string_view::npos ? std::string_view() : rest.substr(question + 1);
  while (!options.empty()) {
    const std::string_view option = options.substr(0, options.find('&'));
    options.remove_prefix(std::min(option.size() + 1, options.size()));
    const std::size_t equals = std::min(option.find('='), option.size());
    const std::string_view key = option.substr(0, equals);
    std::string* const value = key == "conf"        ? &address.conf
                               : key == "id"        ? &address.user
                               : key == "data-pool" ? &address.data_pool
                                                    : nullptr;
    if (value == nullptr) throw_malformed(fmt::format("has the option '{}', which there is not", key));
    if (!value->empty()) throw_malformed(fmt::format("has the option '{}' twice", key));
    *value = percent_decoded(option.substr(std::min(equals + 1, option.size())));
    if (value->empty()) throw_malformed(fmt::format("has the option '{}' without a value", key));
  }
  // Other programs that are given the url may start elsewhere.
  if (!address.conf.empty()) address.conf = std::filesystem::absolute(address.conf).lexically_normal();
  return address;
}

std::string to_url(const RadosAddress& address) {
  std::string url = "rados://" + percent_encoded(address.pool);
  if (!address.name_space.empty()) url += "/" + percent_encoded(address.name_space);
  char before = '?';
  const auto add = [&](std::string_view key, const std::string& value) {
    if (value.empty()) return;
    url += fmt::format("{}{}={}", std::exchange(before, '&'), key, percent_encoded(value));
  };
  add("conf", address.conf);
  add("id", address.user);
  add("data-pool", address.data_pool);
  return url;
}

}  // namespace stillpoint
