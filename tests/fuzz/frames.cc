// SPDX-License-Identifier: LGPL-2.1-or-later
// What comes over the channel: frames, messages, and the report in one of them.
#include "common/errors.hh"
#include "common/frame.hh"
#include "common/protocol.hh"
#include "common/report.hh"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

using namespace stillpoint;

namespace {

void read_message(const std::string& payload) {
  try {
    const Json message = protocol::parse_message(payload);
    if (const auto report = message.find("report"); report != message.end()) static_cast<void>(parse_report(*report));
  } catch (const ProtocolError&) {
  }
}

void decode(FrameDecoder decoder, std::span<const std::byte> bytes, std::size_t part) {
  try {
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(part, bytes.size()))) {
      decoder.feed(bytes.first(std::min(part, bytes.size())));
      while (const std::optional<Frame> frame = decoder.next()) {
        if (frame->payload.size() > max_control_bytes) std::abort();
        if (frame->type == FrameType::control) read_message(frame->payload);
      }
    }
  } catch (const ProtocolError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  decode(FrameDecoder(FrameDecoder::Start::strict), bytes, 1U + data[0]);
  decode(FrameDecoder(FrameDecoder::Start::synchronise), bytes, 1U + data[0]);
  return 0;
}
