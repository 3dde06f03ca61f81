// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/json.hh"

#include <chrono>
#include <cstddef>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>
#include <vector>

/// How a store is spoken to over a stream of bytes (docs/store-protocol.md): messages of a JSON object and of bytes.
namespace stillpoint::store_wire {

inline constexpr std::uint64_t version = 1;
inline constexpr std::size_t max_head_bytes = 64 << 10;
inline constexpr std::size_t max_body_bytes = 8 << 20;

/// What the other side may be silent for, once it is its turn; a large object is synced to a slow disk within it.
inline constexpr std::chrono::seconds patience{300};

/// Values of the field "do".
namespace request {
inline constexpr std::string_view hello = "hello";            // version, path, access -> path, visibility, append_only
inline constexpr std::string_view write = "write";            // object, name; no answer
inline constexpr std::string_view append = "append";          // object, body; no answer
inline constexpr std::string_view commit = "commit";          // object -> {}; ends the object
inline constexpr std::string_view drop = "drop";              // object; no answer; ends the object
inline constexpr std::string_view open = "open";              // object, name -> size
inline constexpr std::string_view read = "read";              // object, offset, length -> body
inline constexpr std::string_view close = "close";            // object; no answer
inline constexpr std::string_view list = "list";              // prefix -> body in several answers: size, time, name
inline constexpr std::string_view exists = "exists";          // name -> exists
inline constexpr std::string_view remove = "remove";          // name -> {}
inline constexpr std::string_view work_under = "work-under";  // lease -> {}
inline constexpr std::string_view drop_unfinished = "drop-unfinished";  // lease -> {}
inline constexpr std::string_view lock = "lock";                        // object, name -> locked
inline constexpr std::string_view unlock = "unlock";                    // object; no answer
}  // namespace request

struct Message {
  Json head;
  std::vector<std::byte> body;
};

/// Both directions of the stream. Sending may be done by several threads, receiving by one.
class Channel {
 public:
  /// Not owned; they are made non-blocking. May be the same. `stop`: a server's, which ends waiting for a
  /// message within half a second; a server also ends after 15 minutes without one.
  Channel(int in, int out, std::stop_token stop = {});

  /// Throws Unreachable when the other side is gone or takes nothing for `patience`.
  void send(const Json& head, std::span<const std::byte> body = {});
  /// Waits for the next message without a limit, and for the rest of one that has begun for `patience`. Nothing when
  /// the other side has ended, or when it was stopped. Throws Unreachable, ProtocolError.
  [[nodiscard]] std::optional<Message> receive();

 private:
  void write(std::span<const std::byte> bytes);
  [[nodiscard]] bool await_message();
  void read(std::span<std::byte> bytes);

  int in_;
  int out_;
  std::stop_token stop_;
  std::mutex sending_;
};

}  // namespace stillpoint::store_wire
