// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/json.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// The words of the protocol between companion, agent and hook. docs/protocol.md describes the conversation.
namespace stillpoint::protocol {

inline constexpr std::uint64_t version = 1;
inline constexpr std::string_view port_name = "org.stillpoint.agent.0";
inline constexpr std::string_view control_socket = "/run/stillpoint/agent.sock";
/// Where the report of the last barrier lies in the guest, and so in the block snapshot.
inline constexpr std::string_view report_path = "/var/lib/stillpoint/report.json";

/// Values of the field "type" of a control message.
namespace type {
inline constexpr std::string_view hello = "hello";        // both ways, with the same nonce: starts a connection
inline constexpr std::string_view prepare = "prepare";    // host -> agent: id, deadline_ms
inline constexpr std::string_view prepared = "prepared";  // agent -> host: id, databases, warnings
inline constexpr std::string_view report = "report";      // host -> agent: id; agent -> host: id, report
inline constexpr std::string_view dump = "dump";          // host -> agent: id, stream, name
inline constexpr std::string_view check = "check";        // host -> agent: id, stream, name
inline constexpr std::string_view credit = "credit";      // host -> agent: stream, bytes it may send more
inline constexpr std::string_view dump_end = "dump-end";  // agent -> host: stream, bytes, ok, message; tool of a check
inline constexpr std::string_view cancel = "cancel";      // host -> agent: stream
inline constexpr std::string_view finish = "finish";      // host -> agent: id; ends everything held for it
inline constexpr std::string_view finished = "finished";  // agent -> host: id
inline constexpr std::string_view freeze = "freeze";      // hook -> agent: timeout_ms, hooks
inline constexpr std::string_view quiesced = "quiesced";  // agent -> hook: id
inline constexpr std::string_view thaw = "thaw";          // hook -> agent
inline constexpr std::string_view released = "released";  // agent -> hook
inline constexpr std::string_view error = "error";        // agent -> either: request, message
}  // namespace type

/// The names that a dump may have: "postgresql/15-main/app", "mariadb/default/shop". At most 255 bytes of
/// [A-Za-z0-9._+@-] in two to four parts, none of them "." or "..": safe as a path below a directory.
/// Other bytes of a database's name are written as %XX.
[[nodiscard]] bool is_dump_name(std::string_view name);

/// `text` as one part of a dump name.
[[nodiscard]] std::string dump_name_part(std::string_view text);

/// {"type": type}, to be filled further.
[[nodiscard]] Json message(std::string_view type);
[[nodiscard]] Json error_message(std::string_view request, std::string_view text);

/// A control frame's payload as an object with a string "type". Throws ProtocolError.
[[nodiscard]] Json parse_message(std::string_view payload);
[[nodiscard]] std::string encode(const Json& message);

/// Limits in time, in the order that must hold: hook < guest deadline < host deadline.
inline constexpr std::chrono::milliseconds barrier_limit{3000};  ///< to quiesce all databases
inline constexpr std::chrono::milliseconds hook_limit{8000};  ///< from the hook's start to its end, site hooks included
inline constexpr std::chrono::milliseconds guest_deadline{20000};  ///< frozen longer than this: the watchdog thaws
inline constexpr std::chrono::milliseconds host_deadline{30000};   ///< for a freeze or thaw call to return
/// Silence of the host after which the agent lets go of the database snapshots it holds.
inline constexpr std::chrono::milliseconds host_silence{120000};

}  // namespace stillpoint::protocol
