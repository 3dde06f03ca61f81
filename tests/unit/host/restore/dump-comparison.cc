// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/dump-comparison.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>

using namespace stillpoint;

namespace {

/// Hands `text` over in pieces of that size.
template <typename Take>
void in_pieces(std::string_view text, std::size_t piece, const Take& take) {
  while (!text.empty()) {
    take(text.substr(0, piece));
    text.remove_prefix(std::min(piece, text.size()));
  }
}

std::string comparable(std::string_view dump, std::size_t piece) {
  std::string result;
  ComparableDump comparable([&](std::string_view bytes) { result += bytes; });
  in_pieces(dump, piece, [&](std::string_view bytes) { comparable.write(bytes); });
  comparable.end();
  return result;
}

std::string difference(const std::string& stored, const std::string& other, std::size_t piece) {
  DumpComparison comparison([&](const DumpComparison::Consumer& take) {
    in_pieces(stored, piece + 3, [&](std::string_view bytes) { take(as_bytes(bytes)); });
  });
  in_pieces(other, piece, [&](std::string_view bytes) { comparison.write(as_bytes(bytes)); });
  return comparison.finish();
}

constexpr std::string_view sample =
    "-- Dumped by pg_dump version 15.18\n-- Server version\t10.11.19\n\\restrict a7Bz\nCREATE TABLE t (\n  i int\n) "
    "ENGINE=InnoDB AUTO_INCREMENT=17 DEFAULT CHARSET=utf8mb4;\n"
    "SELECT pg_catalog.setval('public.s', 12, true);\nINSERT INTO t VALUES (' AUTO_INCREMENT=17');\n\\unrestrict "
    "a7Bz\n";

}  // namespace

TEST_CASE("what tells nothing is taken out of a dump, however it is cut, and nothing else is") {
  for (const std::size_t piece : {1, 2, 7, 4096}) {
    CHECK(comparable(sample, piece) ==
          "\n\n\nCREATE TABLE t (\n  i int\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;\n\n"
          "INSERT INTO t VALUES (' AUTO_INCREMENT=17');\n\n");
    for (const std::string_view line :
         {"SELECT pg_catalog.setval('public.s', 12, true); -- and more", "\\restrict two words", "\\restrict ",
          ") ENGINE=InnoDB COMMENT=' AUTO_INCREMENT=3'", " SELECT pg_catalog.setval('a', 1, true);", ") ENGINE=", ""})
      CHECK(comparable(line, piece) == line);
    const std::string bytes = "INSERT " + std::string(20000, 'x') + "\n" + std::string("\0\xFF\n\n", 4);
    CHECK(comparable(bytes, piece) == bytes);
    const std::string long_comment = " COMMENT='" + std::string(9000, 'y') + "'\n";
    CHECK(comparable(") ENGINE=InnoDB AUTO_INCREMENT=5" + long_comment, piece) == ") ENGINE=InnoDB" + long_comment);
  }
}

TEST_CASE("equal dumps are equal, and where others differ first is told") {
  const std::string rows = [] {
    std::string text;
    for (int i = 0; i < 200000; ++i)
      text += "row " + std::to_string(i) + "\n";
    return text;
  }();
  for (const std::size_t piece : {std::size_t{5}, std::size_t{100000}, std::size_t{10} << 20}) {
    CHECK(difference(rows, rows, piece).empty());
    CHECK(difference("", "", piece).empty());
    std::string other = rows;
    other.replace(other.find("row 1234\n"), 9, "row 4321\n");
    CHECK(difference(rows, other, piece) == "differs in line 1235: stored 'row 1234', recovered 'row 4321'");
    CHECK(difference(rows, rows + "more\n", piece) == "differs in line 200001: stored it ends there, recovered 'more'");
    CHECK(difference(rows + "m", rows, piece) == "differs in line 200001: stored 'm', recovered it ends there");
    CHECK(difference("", "x\x1b[2J", piece) == "differs in line 1: stored it ends there, recovered 'x\\x1b[2J'");
  }
  const std::string key = "\\restrict abc\n";
  CHECK(difference(key, "\\restrict def\n", 3).empty());
}

TEST_CASE("a stored dump that cannot be read is no difference") {
  DumpComparison comparison([](const DumpComparison::Consumer& take) {
    take(as_bytes("a\nb"));
    throw Corruption("chunk 12 is damaged");
  });
  comparison.write(as_bytes("a\nbcdef"));
  CHECK_THROWS_AS(static_cast<void>(comparison.finish()), Corruption);
}

TEST_CASE("a comparison that is given up ends its reader") {
  const DumpComparison comparison([](const DumpComparison::Consumer& take) {
    const std::string piece(1 << 20, 'x');
    for (;;)
      take(as_bytes(piece));
  });
}
