// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace stillpoint {

/// Keeps the order of keys as written, so that documents read as they are described.
using Json = nlohmann::ordered_json;

/// Limits for a document that somebody else wrote.
struct JsonLimits {
  std::size_t bytes = std::size_t{4} << 20;
  int depth = 16;
};

/// Parses untrusted text. Throws ProtocolError that names `what` when it is too long or deep, has too many
/// values (one in 8 bytes) or fields, is not UTF-8 or not JSON. In linear time.
[[nodiscard]] Json parse_json(std::string_view text, std::string_view what, JsonLimits limits = {});

/// Compact and valid UTF-8 whatever the strings hold (invalid bytes become U+FFFD).
[[nodiscard]] std::string dump_json(const Json& value, int indent = -1);

/// Typed access to the fields of an untrusted object: each throws ProtocolError naming the field when it is missing,
/// of another type or out of bounds. The `_or` forms return the fallback when the field is missing, and still throw on
/// a wrong type.
[[nodiscard]] std::string json_string(const Json& object, std::string_view field, std::size_t max_length = 4096);
[[nodiscard]] std::string json_string_or(const Json& object, std::string_view field, std::string_view fallback,
                                         std::size_t max_length = 4096);
[[nodiscard]] std::uint64_t json_uint(const Json& object, std::string_view field, std::uint64_t max = INT64_MAX);
[[nodiscard]] std::uint64_t json_uint_or(const Json& object, std::string_view field, std::uint64_t fallback,
                                         std::uint64_t max = INT64_MAX);
[[nodiscard]] bool json_bool(const Json& object, std::string_view field);
[[nodiscard]] bool json_bool_or(const Json& object, std::string_view field, bool fallback);
/// An array of at most `max_elements`; an empty array when the field is missing.
[[nodiscard]] const Json& json_array(const Json& object, std::string_view field, std::size_t max_elements = 100000);
/// An object; an empty object when the field is missing.
[[nodiscard]] const Json& json_object(const Json& object, std::string_view field);

}  // namespace stillpoint
