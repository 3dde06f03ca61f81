// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace stillpoint {

/// What a folder's entry says of an object.
struct RadosEntry {
  std::string id{};               ///< is_id: names its pieces
  std::uint64_t size = 0;         ///< bytes
  std::uint64_t piece_bytes = 0;  ///< of each piece but the last; 0: the content is an entry, too
  WallTime modified{};

  [[nodiscard]] std::uint64_t pieces() const noexcept {
    return piece_bytes == 0 ? 0 : (size + piece_bytes - 1) / piece_bytes;
  }
};
[[nodiscard]] std::string to_string(const RadosEntry& entry);
/// Nothing when it is damaged.
[[nodiscard]] std::optional<RadosEntry> parse_rados_entry(std::string_view text);

/// What a folder's entry says of an unfinished object, or of garbage.
struct RadosNote {
  WallTime since{};
  std::optional<std::uint64_t> pieces{};  ///< of garbage, where that is known
};
[[nodiscard]] std::string to_string(const RadosNote& note);
/// Nothing when it is damaged.
[[nodiscard]] std::optional<RadosNote> parse_rados_note(std::string_view text);

/// "packs/ab" and "abcd" of "packs/ab/abcd".
[[nodiscard]] std::pair<std::string, std::string> split_object_name(const std::string& name);

/// Keys of a folder's entries: of an object, of its content, of a folder below, of a writer's unfinished object, of
/// pieces that are to be deleted.
namespace rados_key {
inline constexpr std::string_view object = "n.";
inline constexpr std::string_view content = "d.";
inline constexpr std::string_view folder = "s.";
inline constexpr std::string_view unfinished = "u.";  ///< LEASE.ID, or ID
inline constexpr std::string_view garbage = "g.";     ///< ID
/// The key with that beginning.
[[nodiscard]] std::string of(std::string_view kind, std::string_view name);
}  // namespace rados_key

/// An unfinished or garbage entry as an object's name: "tmp/LEASE.ID@FOLDER", or "tmp/ID@FOLDER", in which no '.' but
/// the one behind the lease stands.
struct RadosRemnant {
  std::string folder{};
  std::string lease{};  ///< may be empty
  std::string id{};
};
[[nodiscard]] std::string to_string(const RadosRemnant& remnant);
/// Nothing when it is no such name.
[[nodiscard]] std::optional<RadosRemnant> parse_rados_remnant(std::string_view name);
/// Of a folder's entry; nothing when the key is damaged.
[[nodiscard]] std::optional<RadosRemnant> remnant_of(const std::string& folder, std::string_view key);

}  // namespace stillpoint
