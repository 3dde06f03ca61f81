// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/json.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

using namespace stillpoint;

TEST_CASE("untrusted JSON is bounded") {
  CHECK_THROWS_AS(static_cast<void>(parse_json("{", "text")), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(parse_json(std::string(100, ' ') + "{}", "text", {50, 4})), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(parse_json(std::string(100000, '[') + std::string(100000, ']'), "text")),
                  ProtocolError);
  CHECK(parse_json("{\"a\":[1]}", "text")["a"][0] == 1);
  CHECK_THROWS_AS(static_cast<void>(parse_json("[[[]]]", "text", {50, 2})), ProtocolError);
  CHECK(parse_json("[[1]]", "text", {50, 2})[0][0] == 1);
  // As a domain's definition may be.
  CHECK(parse_json('"' + std::string(1 << 20, 'x') + '"', "text").is_string());
  CHECK_THROWS_AS(static_cast<void>(parse_json("{\"" + std::string(2000, 'x') + "\":1}", "text")), ProtocolError);
}

namespace {

/// 4 MiB of many small values.
std::string crowd(std::string_view open, auto one, std::string_view close) {
  std::string text(open);
  for (int number = 0; text.size() < (std::size_t{4} << 20) - 64; ++number)
    text += one(number);
  text += close;
  return text;
}

std::string complaint(const std::string& text) {
  try {
    static_cast<void>(parse_json(text, "text"));
  } catch (const ProtocolError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("what is wrong with a text is told in few words") {
  try {
    static_cast<void>(parse_json("\"" + std::string(100000, 'x') + "\x1b", "a frame"));
    FAIL("accepted");
  } catch (const ProtocolError& e) {
    CHECK(std::string_view(e.what()).size() < 500);
    CHECK(std::string_view(e.what()).find('\x1b') == std::string_view::npos);
  }
}

TEST_CASE("many small values cost neither hours nor memory") {
  CHECK(complaint(crowd(
                      "[", [](int) { return "{},"; }, "{}]"))
            .find("values") != std::string::npos);
  CHECK(complaint(crowd(
                      "{", [](int i) { return '"' + std::to_string(i) + "\":1,"; }, "\"a\":1}"))
            .find("fields") != std::string::npos);
  // As many as a report may have.
  CHECK(parse_json(crowd(
                       "[", [](int) { return "{\"a\":1234567890},"; }, "{}]"),
                   "text")
            .size() > 200000);
}

TEST_CASE("fields are checked for presence, type and bound") {
  const Json object = parse_json(R"({"s":"text","n":7,"neg":-1,"b":true,"a":[1,2],"null":null})", "text");
  CHECK(json_string(object, "s") == "text");
  CHECK_THROWS_AS(static_cast<void>(json_string(object, "s", 3)), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(json_string(object, "n")), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(json_string(object, "missing")), ProtocolError);
  CHECK(json_string_or(object, "null", "x") == "x");
  CHECK(json_uint(object, "n") == 7);
  CHECK_THROWS_AS(static_cast<void>(json_uint(object, "neg")), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(json_uint(object, "n", 6)), ProtocolError);
  CHECK(json_bool(object, "b"));
  CHECK(json_array(object, "a").size() == 2);
  CHECK_THROWS_AS(static_cast<void>(json_array(object, "a", 1)), ProtocolError);
  CHECK(json_array(object, "missing").empty());
  CHECK_THROWS_AS(static_cast<void>(json_string(Json::array(), "s")), ProtocolError);
}

TEST_CASE("what is written is valid UTF-8 whatever a name holds") {
  CHECK(dump_json(Json{{"name", "caf\xe9"}}) == "{\"name\":\"caf\xef\xbf\xbd\"}");
}
