// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-packet.hh"
#include "agent/os-user.hh"
#include "common/clock.hh"
#include "common/file.hh"

#include <poll.h>

#include <array>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint::mysql {

/// Where a link of the relay stands. A gated link goes through all of them in this order, a plain one waits, passes and
/// closes.
enum class LinkState {
  waiting,   ///< for its client to connect
  talking,   ///< the client logs in and sets its session up; we look for the query that opens the snapshot
  settling,  ///< that query is held back; our own settings for the session are under way
  ready,     ///< only open_snapshots() is missing
  opening,   ///< the query is with the server
  pinning,   ///< the snapshot is open; our reads that keep the tables' definitions are under way
  open,      ///< the client still waits for the answer to its query
  passing,   ///< bytes go through both ways, unread
  closed,
};

/// What the relay says in a dump tool's session, in the tool's place.
struct GateScript {
  std::vector<std::string> settings;  ///< before the snapshot opens; each must succeed
  std::vector<std::string> pins;      ///< right after; each may fail
  std::string last;                   ///< after the pins; must succeed
};

/// Bytes on their way in one direction.
class Flow {
 public:
  explicit Flow(std::size_t capacity) : capacity_(capacity) {}

  [[nodiscard]] bool empty() const noexcept { return begin_ == end_; }
  [[nodiscard]] bool has_room() const noexcept { return end_ < capacity_; }
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  void append(std::span<const std::byte> bytes);
  /// Reads once. False when the connection is broken.
  bool receive(int fd);
  /// Writes what it can. False when the connection is broken.
  bool send(int fd);

 private:
  std::size_t capacity_;
  std::vector<std::byte> buffer_;  ///< empty until it is needed
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool ended_ = false;
};

/// One client's connection through the relay. Not thread-safe: the relay's mutex guards it.
class Link {
 public:
  /// `listener` listens at `path`; a link without `script` is plain.
  Link(UniqueFd listener, std::string path, std::optional<GateScript> script);
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link();

  [[nodiscard]] LinkState state() const noexcept { return state_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] const std::string& failure() const noexcept { return failure_; }
  [[nodiscard]] std::size_t failed_pins() const noexcept { return failed_pins_; }

  void set_deadline(std::optional<Deadline> deadline) { deadline_ = deadline; }
  [[nodiscard]] const std::optional<Deadline>& deadline() const noexcept { return deadline_; }
  void set_pins(std::vector<std::string> statements);
  /// ready -> opening.
  void open_snapshot();
  /// open -> passing.
  void pass();
  void close(std::string reason);

  /// What to poll for; a descriptor of -1 is of no interest now.
  [[nodiscard]] std::array<pollfd, 3> interests() const;
  /// Acts on the answer to interests().
  void serve(const std::array<pollfd, 3>& events, const std::string& server_socket, const std::optional<OsUser>& user);

 private:
  static constexpr std::size_t up_bytes = std::size_t{64} << 10;
  static constexpr std::size_t down_bytes = std::size_t{256} << 10;
  /// A command longer than this is not the one that we look for.
  static constexpr std::size_t command_limit = PacketScanner::head_limit;

  void accept(const std::string& server_socket, const std::optional<OsUser>& user);
  void serve_flows(short client, short server);
  void serve_gate(short client, short server);
  void read_commands();
  bool take_command();
  void read_answer();
  void take_answer(const Answer& answer);
  void say_next();
  void say(std::string packet);
  [[nodiscard]] bool answering() const noexcept;

  UniqueFd listener_;
  UniqueFd client_;
  UniqueFd server_;
  std::string path_;
  std::optional<GateScript> script_;
  std::optional<Deadline> deadline_;
  LinkState state_ = LinkState::waiting;
  std::string failure_;

  Flow up_{up_bytes};      ///< client to server
  Flow down_{down_bytes};  ///< server to client
  PacketScanner commands_;
  PacketScanner answers_;
  bool greeted_ = false;         ///< the client's first packet has been seen
  std::string command_;          ///< bytes of the command that is coming in
  std::string snapshot_query_;   ///< the packet held back
  std::string snapshot_answer_;  ///< what the server answered to it, for the client
  std::deque<std::string> statements_;
  std::size_t failed_pins_ = 0;
};

}  // namespace stillpoint::mysql
