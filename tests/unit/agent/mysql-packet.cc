// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-packet.hh"

#include "common/file.hh"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

using namespace stillpoint;
using namespace stillpoint::mysql;

namespace {

std::string part(std::size_t length, std::uint8_t sequence, char fill = 'x') {
  std::string bytes;
  for (unsigned shift = 0; shift < 24; shift += 8)
    bytes.push_back(static_cast<char>(length >> shift & 0xFF));
  bytes.push_back(static_cast<char>(sequence));
  return bytes + std::string(length, fill);
}

struct Seen {
  std::string head;
  std::uint64_t length;
  std::uint8_t sequence;
  bool operator==(const Seen&) const = default;
};

/// Feeds `stream` in pieces of the given sizes (the last one repeats), and notes every complete packet.
std::vector<Seen> scan(std::string_view stream, const std::vector<std::size_t>& pieces) {
  PacketScanner scanner;
  std::vector<Seen> seen;
  std::size_t turn = 0;
  while (!stream.empty()) {
    const std::size_t size = std::min(stream.size(), pieces[std::min(turn++, pieces.size() - 1)]);
    std::string_view piece = stream.substr(0, size);
    stream.remove_prefix(size);
    while (!piece.empty()) {
      const std::size_t taken = scanner.feed(as_bytes(piece));
      REQUIRE(taken > 0);
      REQUIRE(taken <= piece.size());
      piece.remove_prefix(taken);
      if (scanner.complete()) seen.push_back({std::string(scanner.head()), scanner.length(), scanner.sequence()});
    }
  }
  return seen;
}

}  // namespace

TEST_CASE("packets are found wherever the stream is cut") {
  const std::string stream = part(5, 0, 'a') + part(0, 1) + part(1, 7, 'b') + query_packet("SELECT 1");
  const std::vector<Seen> expected{{"aaaaa", 5, 0}, {"", 0, 1}, {"b", 1, 7}, {"\003SELECT 1", 9, 0}};
  CHECK(scan(stream, {stream.size()}) == expected);
  CHECK(scan(stream, {1}) == expected);
  for (std::size_t cut = 1; cut < stream.size(); ++cut)
    CHECK(scan(stream, {cut, stream.size()}) == expected);
}

TEST_CASE("a packet that is not whole is not complete") {
  const std::string stream = part(5, 0);
  for (std::size_t cut = 1; cut < stream.size(); ++cut) {
    PacketScanner scanner;
    CHECK(scanner.feed(as_bytes(std::string_view(stream).substr(0, cut))) == cut);
    CHECK_FALSE(scanner.complete());
  }
}

TEST_CASE("the parts of a split packet are one, and only its beginning is kept") {
  const std::string stream = part(max_packet_payload, 0, 'a') + part(3, 1, 'b') + part(2, 0, 'c');
  const std::vector<Seen> seen = scan(stream, {stream.size()});
  REQUIRE(seen.size() == 2);
  CHECK(seen[0] == Seen{std::string(PacketScanner::head_limit, 'a'), max_packet_payload + 3, 0});
  CHECK(seen[1] == Seen{"cc", 2, 0});
  CHECK(scan(stream, {16384, 3, 100000}) == seen);

  // A payload of exactly 16 MiB - 1 is followed by an empty part.
  const std::string exact = part(max_packet_payload, 0, 'a') + part(0, 1) + part(1, 0, 'd');
  const std::vector<Seen> two = scan(exact, {65536});
  REQUIRE(two.size() == 2);
  CHECK(two[0].length == max_packet_payload);
  CHECK(two[1] == Seen{"d", 1, 0});
}

TEST_CASE("garbage is cut into something, in bounded memory") {
  std::minstd_rand random(7);
  for (int round = 0; round < 20; ++round) {
    std::string garbage(100000, '\0');
    for (char& c : garbage)
      c = static_cast<char>(random());
    for (const Seen& seen : scan(garbage, {1 + random() % 5000})) {
      CHECK(seen.head.size() <= PacketScanner::head_limit);
      static_cast<void>(opens_snapshot(seen.head));
      static_cast<void>(parse_answer(seen.head));
      static_cast<void>(client_capabilities(seen.head));
    }
  }
}

TEST_CASE("the query that opens a snapshot is known in every tool's spelling") {
  CHECK(opens_snapshot("\003START TRANSACTION /*!40100 WITH CONSISTENT SNAPSHOT */"));
  CHECK(opens_snapshot("\003START TRANSACTION WITH CONSISTENT SNAPSHOT"));
  CHECK(opens_snapshot("\003  start transaction /*!40100 with consistent snapshot */"));
  using namespace std::string_view_literals;
  CHECK(opens_snapshot("\003\000\001START TRANSACTION /*!40100 WITH CONSISTENT SNAPSHOT */"sv));
  CHECK_FALSE(opens_snapshot("\003START TRANSACTION"));
  CHECK_FALSE(opens_snapshot("\003SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"));
  CHECK_FALSE(opens_snapshot("\003SELECT 'START TRANSACTION WITH CONSISTENT SNAPSHOT'"));
  CHECK_FALSE(opens_snapshot("\002START TRANSACTION WITH CONSISTENT SNAPSHOT"));
  CHECK_FALSE(opens_snapshot(""));
  CHECK_FALSE(opens_snapshot("\003"));
  CHECK_FALSE(opens_snapshot("\003\000\001"sv));
}

TEST_CASE("answers are told apart") {
  using namespace std::string_view_literals;
  const Answer ok = parse_answer("\000\000\000\003\000\000\000"sv);
  CHECK(ok.kind == Answer::Kind::ok);
  CHECK(ok.in_transaction);
  CHECK_FALSE(parse_answer("\000\000\000\002\000\000\000"sv).in_transaction);
  CHECK(parse_answer("\000\374\001\002\375\001\002\003\001\000"sv).in_transaction);

  const Answer error = parse_answer("\377\265\004#HY000Lock wait timeout exceeded");
  CHECK(error.kind == Answer::Kind::error);
  CHECK(error.code == 1205);
  CHECK(error.message == "Lock wait timeout exceeded");
  CHECK(parse_answer("\377\265\004no state").message == "no state");

  CHECK(parse_answer("\377\377\377\001\002\003"sv).kind == Answer::Kind::progress);
  for (const std::string_view other :
       {""sv, "\000"sv, "\000\000"sv, "\000\000\000"sv, "\000\000\000\001"sv, "\000\374\001"sv,
        "\000\373\000\001\000"sv, "\377"sv, "\377\001"sv, "\001"sv, "\376\000\000\002\000"sv})
    CHECK(parse_answer(other).kind == Answer::Kind::other);
}

TEST_CASE("statements become packets, and too long ones do not") {
  CHECK(query_packet("DO 1") == std::string("\005\000\000\000\003DO 1", 9));
  CHECK_THROWS_AS(static_cast<void>(query_packet(std::string(max_packet_payload, 'x'))), std::length_error);
}

TEST_CASE("capabilities are read from a client's first packet") {
  using namespace std::string_view_literals;
  CHECK(client_capabilities("\040\010\000\000rest"sv) == (client_compress | client_ssl));
  CHECK(client_capabilities("\001"sv) == 0);
}
