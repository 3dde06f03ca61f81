// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/json.hh"

#include "common/errors.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

const Json* find(const Json& object, std::string_view field) {
  if (!object.is_object()) throw ProtocolError(fmt::format("an object with '{}' was expected", field));
  const auto it = object.find(std::string(field));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

const Json& need(const Json& object, std::string_view field) {
  const Json* value = find(object, field);
  if (value == nullptr) throw ProtocolError(fmt::format("field '{}' is missing", field));
  return *value;
}

std::string as_string(const Json& value, std::string_view field, std::size_t max_length) {
  if (!value.is_string()) throw ProtocolError(fmt::format("field '{}' is not a string", field));
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() > max_length)
    throw ProtocolError(fmt::format("field '{}' has {} bytes, more than {}", field, text.size(), max_length));
  return text;
}

std::uint64_t as_uint(const Json& value, std::string_view field, std::uint64_t max) {
  if (!value.is_number_unsigned() && !(value.is_number_integer() && value.get<std::int64_t>() >= 0))
    throw ProtocolError(fmt::format("field '{}' is not a whole number of zero or more", field));
  const auto number = value.get<std::uint64_t>();
  if (number > max) throw ProtocolError(fmt::format("field '{}' is {}, more than {}", field, number, max));
  return number;
}

bool as_bool(const Json& value, std::string_view field) {
  if (!value.is_boolean()) throw ProtocolError(fmt::format("field '{}' is neither true nor false", field));
  return value.get<bool>();
}

}  // namespace

Json parse_json(std::string_view text, std::string_view what, JsonLimits limits) {
  if (text.size() > limits.bytes)
    throw ProtocolError(fmt::format("{} has {} bytes, more than {}", what, text.size(), limits.bytes));
  bool too_deep = false;
  const auto callback = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > limits.depth) too_deep = true;
    return !too_deep;
  };
  Json value;
  try {
    value = Json::parse(text.begin(), text.end(), callback);
  } catch (const Json::exception& e) {
    throw ProtocolError(fmt::format("{} is not JSON: {}", what, e.what()));
  }
  if (too_deep) throw ProtocolError(fmt::format("{} is nested deeper than {}", what, limits.depth));
  return value;
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string json_string(const Json& object, std::string_view field, std::size_t max_length) {
  return as_string(need(object, field), field, max_length);
}

std::string json_string_or(const Json& object, std::string_view field, std::string_view fallback,
                           std::size_t max_length) {
  const Json* value = find(object, field);
  return value == nullptr ? std::string(fallback) : as_string(*value, field, max_length);
}

std::uint64_t json_uint(const Json& object, std::string_view field, std::uint64_t max) {
  return as_uint(need(object, field), field, max);
}

std::uint64_t json_uint_or(const Json& object, std::string_view field, std::uint64_t fallback, std::uint64_t max) {
  const Json* value = find(object, field);
  return value == nullptr ? fallback : as_uint(*value, field, max);
}

bool json_bool(const Json& object, std::string_view field) {
  return as_bool(need(object, field), field);
}

bool json_bool_or(const Json& object, std::string_view field, bool fallback) {
  const Json* value = find(object, field);
  return value == nullptr ? fallback : as_bool(*value, field);
}

const Json& json_array(const Json& object, std::string_view field, std::size_t max_elements) {
  static const Json empty = Json::array();
  const Json* value = find(object, field);
  if (value == nullptr) return empty;
  if (!value->is_array()) throw ProtocolError(fmt::format("field '{}' is not an array", field));
  if (value->size() > max_elements)
    throw ProtocolError(fmt::format("field '{}' has {} elements, more than {}", field, value->size(), max_elements));
  return *value;
}

const Json& json_object(const Json& object, std::string_view field) {
  static const Json empty = Json::object();
  const Json* value = find(object, field);
  if (value == nullptr) return empty;
  if (!value->is_object()) throw ProtocolError(fmt::format("field '{}' is not an object", field));
  return *value;
}

}  // namespace stillpoint
