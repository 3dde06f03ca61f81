// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace stillpoint {

/// The envelope of everything on the channel and on the control socket (docs/protocol.md, Frames).
enum class FrameType : std::uint8_t {
  control = 1,  ///< a JSON object
  data = 2,     ///< bytes of the dump that `stream` carries
};

/// Bytes of a frame's header: magic "SPF1", type, three zero bytes, stream and length as little-endian u32.
inline constexpr std::size_t frame_header_bytes = 16;
inline constexpr std::size_t max_control_bytes = std::size_t{4} << 20;
inline constexpr std::size_t max_data_bytes = std::size_t{256} << 10;
/// How much garbage (what an earlier connection left in the port's buffers) is skipped before the first good frame.
inline constexpr std::size_t max_skipped_bytes = std::size_t{16} << 20;

struct Frame {
  FrameType type = FrameType::control;
  std::uint32_t stream = 0;  ///< 0 for control
  std::string payload;
};

/// Header and payload. The payload's length is within the type's limit (a bug otherwise: std::length_error).
[[nodiscard]] std::string encode_frame(FrameType type, std::uint32_t stream, std::string_view payload);

/// Cuts a byte stream into frames. Holds at most one frame in memory; a length beyond the limit is refused before any
/// of the payload is stored.
class FrameDecoder {
 public:
  enum class Start {
    strict,       ///< the first byte begins a frame
    synchronise,  ///< skip bytes until a frame header: for ports that may hold an earlier connection's rest
  };

  explicit FrameDecoder(Start start = Start::strict) : synchronising_(start == Start::synchronise) {}

  void feed(std::span<const std::byte> bytes);

  /// The next whole frame. Throws ProtocolError for a bad header; the decoder is then of no further use.
  [[nodiscard]] std::optional<Frame> next();

  /// Drops what is buffered and skips bytes until a frame header again.
  void synchronise();

 private:
  bool find_header();

  std::string buffer_;
  std::size_t start_ = 0;  ///< where the unread part of buffer_ begins
  std::size_t skipped_ = 0;
  bool synchronising_;
};

}  // namespace stillpoint
