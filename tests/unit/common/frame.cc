// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/frame.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace stillpoint;

TEST_CASE("a frame comes back as it was sent, however it is cut") {
  const std::string wire = encode_frame(FrameType::control, 0, "{\"type\":\"hello\"}") +
                           encode_frame(FrameType::data, 7, std::string(100000, 'x'));
  for (const std::size_t piece : {std::size_t{1}, std::size_t{15}, std::size_t{4096}, wire.size()}) {
    FrameDecoder decoder;
    std::vector<Frame> frames;
    for (std::size_t at = 0; at < wire.size(); at += piece) {
      decoder.feed(as_bytes(std::string_view(wire).substr(at, piece)));
      while (auto frame = decoder.next())
        frames.push_back(std::move(*frame));
    }
    REQUIRE(frames.size() == 2);
    CHECK(frames[0].payload == "{\"type\":\"hello\"}");
    CHECK(frames[1].type == FrameType::data);
    CHECK(frames[1].stream == 7);
    CHECK(frames[1].payload.size() == 100000);
  }
}

TEST_CASE("a length of 4 GiB is refused from the header alone") {
  std::string header = encode_frame(FrameType::control, 0, "");
  header.replace(12, 4, "\xff\xff\xff\xff", 4);
  FrameDecoder decoder;
  decoder.feed(as_bytes(header));
  CHECK_THROWS_AS(static_cast<void>(decoder.next()), ProtocolError);
}

TEST_CASE("garbage is an error in the middle, and skipped when synchronising") {
  const std::string good = encode_frame(FrameType::control, 0, "{}");
  const std::string garbage = "SPF SPF1 half a frame of an earlier connection SPF1\x07";
  FrameDecoder strict;
  strict.feed(as_bytes(garbage));
  CHECK_THROWS_AS(static_cast<void>(strict.next()), ProtocolError);

  FrameDecoder decoder(FrameDecoder::Start::synchronise);
  decoder.feed(as_bytes(garbage + good));
  auto frame = decoder.next();
  REQUIRE(frame);
  CHECK(frame->payload == "{}");
  decoder.feed(as_bytes(garbage));
  CHECK_THROWS_AS(static_cast<void>(decoder.next()), ProtocolError);
}

TEST_CASE("endless garbage ends in an error, not in memory") {
  FrameDecoder decoder(FrameDecoder::Start::synchronise);
  const std::string block(1 << 20, 'S');
  const auto flood = [&] {
    for (int i = 0; i < 20; ++i) {
      decoder.feed(as_bytes(block));
      static_cast<void>(decoder.next());
    }
  };
  CHECK_THROWS_AS(flood(), ProtocolError);
}
