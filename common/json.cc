// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/json.hh"

#include "common/errors.hh"
#include "common/text.hh"

#include <fmt/format.h>

#include <vector>

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

/// Where every value costs so few bytes, memory is what somebody is after.
constexpr std::size_t least_bytes_a_value = 8;
/// Keeping their order, an object looks through all its keys for each new one.
constexpr std::size_t most_keys = 256;
constexpr std::size_t longest_key = 1024;

/// Looks through a document before memory is spent on it. In linear time, which the parser's own callback does not
/// take.
class Bounds final : public nlohmann::json_sax<Json> {
 public:
  explicit Bounds(const JsonLimits& limits)
      : most_values_(limits.bytes / least_bytes_a_value), depth_(static_cast<std::size_t>(limits.depth)) {}

  /// Which limit is exceeded, as the end of a sentence; empty when none is.
  [[nodiscard]] const std::string& broken() const noexcept { return broken_; }

  bool null() override { return value(); }
  bool boolean(bool /*value*/) override { return value(); }
  bool number_integer(number_integer_t /*value*/) override { return value(); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return value(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return value(); }
  bool string(string_t& /*text*/) override { return value(); }
  bool binary(binary_t& /*bytes*/) override { return value(); }
  bool start_object(std::size_t /*elements*/) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return open(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    return within(name.size(), longest_key, "has a key of more than {} bytes") &&
           within(++keys_.back(), most_keys, "has an object of more than {} fields");
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return false;
  }

 private:
  bool within(std::size_t count, std::size_t most, fmt::format_string<std::size_t&> complaint) {
    if (count > most) broken_ = fmt::format(complaint, most);
    return count <= most;
  }
  bool value() { return within(++values_, most_values_, "has more than {} values"); }
  bool open() {
    keys_.push_back(0);
    return value() && within(keys_.size(), depth_, "is nested deeper than {}");
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::size_t most_values_;
  std::size_t depth_;
  std::size_t values_ = 0;
  std::vector<std::size_t> keys_;  ///< of every object that is open, 0 for an array
  std::string broken_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view what, JsonLimits limits) {
  if (text.size() > limits.bytes)
    throw ProtocolError(fmt::format("{} has {} bytes, more than {}", what, text.size(), limits.bytes));
  Bounds bounds(limits);
  // Malformed text ends it too; what is wrong with it is told below.
  if (!Json::sax_parse(text.begin(), text.end(), &bounds) && !bounds.broken().empty())
    throw ProtocolError(fmt::format("{} {}", what, bounds.broken()));
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& e) {
    // The library repeats what it read last, however long.
    constexpr std::size_t longest = 300;
    throw ProtocolError(
        fmt::format("{} is not JSON: {}", what, printable(std::string_view(e.what()).substr(0, longest))));
  }
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
