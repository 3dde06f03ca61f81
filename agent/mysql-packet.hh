// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// The framing of the MySQL client/server protocol, as far as the relay must understand it: a packet is a 3-byte
/// little-endian length, a sequence number and the payload; a payload of 16 MiB - 1 goes on in the next packet.
namespace stillpoint::mysql {

inline constexpr std::size_t packet_header_bytes = 4;
inline constexpr std::size_t max_packet_payload = 0xFFFFFF;

/// Cuts one direction of a connection into logical packets (the parts of a split one together). Keeps only the
/// beginning of a payload in memory, however long it is.
class PacketScanner {
 public:
  /// How much of a payload head() keeps; what lies behind it is counted, not stored.
  static constexpr std::size_t head_limit = 4096;

  /// Takes bytes up to the end of the current packet, at most; returns how many it took. When the packet before was
  /// complete, a new one begins.
  std::size_t feed(std::span<const std::byte> bytes);

  /// Whether the byte taken last was the last of a logical packet.
  [[nodiscard]] bool complete() const noexcept { return complete_; }
  /// The first bytes of the current payload, at most head_limit.
  [[nodiscard]] std::string_view head() const noexcept { return head_; }
  /// Bytes of the current payload so far; all of them when complete().
  [[nodiscard]] std::uint64_t length() const noexcept { return length_; }
  /// The sequence number of the packet's first part.
  [[nodiscard]] std::uint8_t sequence() const noexcept { return sequence_; }

 private:
  void begin_packet();

  std::string head_;
  std::uint64_t length_ = 0;
  std::uint8_t header_[packet_header_bytes] = {};
  std::size_t header_filled_ = 0;
  std::size_t part_left_ = 0;
  bool part_is_full_ = false;
  bool first_part_ = true;
  bool complete_ = true;
  std::uint8_t sequence_ = 0;
};

/// Whether a command's payload is the query that opens a consistent snapshot, as dump tools write it.
[[nodiscard]] bool opens_snapshot(std::string_view payload);

/// What a server says to a statement without a result set.
struct Answer {
  enum class Kind {
    ok,
    error,
    progress,  ///< MariaDB's progress report: the answer is still to come
    other,     ///< a result set, or bytes that are no answer at all
  };
  Kind kind = Kind::other;
  bool in_transaction = false;  ///< an ok tells it
  unsigned code = 0;            ///< an error's number
  std::string message;          ///< an error's text
};

/// Reads the first packet of an answer; never fails, whatever the bytes are.
[[nodiscard]] Answer parse_answer(std::string_view payload);

/// A whole packet that asks the server to execute `sql` (shorter than 16 MiB - 1: std::length_error otherwise).
[[nodiscard]] std::string query_packet(std::string_view sql);

/// Bits of the capabilities in a client's first packet.
inline constexpr std::uint32_t client_compress = 0x20;
inline constexpr std::uint32_t client_ssl = 0x800;

/// The capabilities in a client's first packet; 0 when it is too short to hold any.
[[nodiscard]] std::uint32_t client_capabilities(std::string_view payload);

}  // namespace stillpoint::mysql
