// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"
#include "host/repository/store.hh"

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A pack grows to this size, then the next one begins.
inline constexpr std::uint64_t pack_bytes = 64 << 20;
/// A longer pack is refused: offsets in it are 32 bits.
inline constexpr std::uint64_t max_pack_bytes = std::uint64_t{1} << 30;
/// Plain bytes of the longest chunk that a reader accepts.
inline constexpr std::uint32_t max_chunk_bytes = 4 << 20;
/// Plain bytes of the longest chunk that a dump is cut into.
inline constexpr std::uint32_t max_dump_chunk_bytes = 512 << 10;
inline constexpr std::size_t pack_header_bytes = 64;
inline constexpr std::size_t record_header_bytes = 56;
/// How much longer a sealed record is than what it holds (record-seal.hh).
inline constexpr std::size_t sealed_record_bytes = 44;
/// Records begin at multiples of it, so that a scan finds the next one behind a damaged one.
inline constexpr std::size_t record_alignment = 8;
/// What a record with that many stored bytes takes: header, bytes, and zeros up to the next boundary.
constexpr std::uint64_t record_length(std::uint64_t stored) {
  return (record_header_bytes + stored + record_alignment - 1) / record_alignment * record_alignment;
}

/// A pack's random name.
struct PackId {
  std::array<std::byte, 16> bytes{};
  auto operator<=>(const PackId&) const = default;
};

[[nodiscard]] PackId random_pack_id();
/// "packs/ab/abcd...".
[[nodiscard]] std::string object_name(const PackId& id);
/// Nothing when the object is not named as a pack is.
[[nodiscard]] std::optional<PackId> parse_pack_name(std::string_view name);

enum class Codec : std::uint8_t { raw = 0, zstd = 1 };
enum class RecordKind : std::uint8_t { data = 0, node = 1 };

/// What stands before a chunk's stored bytes.
struct RecordHeader {
  Codec codec = Codec::raw;
  RecordKind kind = RecordKind::data;
  std::uint32_t stored = 0;  ///< bytes in the pack behind the header
  std::uint32_t plain = 0;   ///< bytes of the chunk
  ChunkId id;
  std::uint32_t payload_crc = 0;  ///< CRC-32C of the stored bytes
  bool sealed = false;            ///< the stored bytes are encrypted
};

void encode(const RecordHeader& header, std::span<std::byte, record_header_bytes> to) noexcept;
/// Nothing when it is no record header or a damaged one.
[[nodiscard]] std::optional<RecordHeader> decode_record_header(std::span<const std::byte, record_header_bytes> from);

/// Where a chunk lies in a pack.
struct PackEntry {
  ChunkId id;
  std::uint32_t offset = 0;  ///< of the record's header
  std::uint32_t stored = 0;
  std::uint32_t plain = 0;
  Codec codec = Codec::raw;
  RecordKind kind = RecordKind::data;
  bool sealed = false;
  bool operator==(const PackEntry&) const = default;
};

/// Writes one pack; not for several threads at once.
class PackWriter {
 public:
  /// `repository`: its id in bytes. `sealed`: its records are encrypted.
  PackWriter(Store& store, std::span<const std::byte, 16> repository, bool sealed);

  [[nodiscard]] const PackId& id() const noexcept { return id_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] bool has_room(std::size_t record) const noexcept { return size_ + record <= pack_bytes; }

  /// Appends a record whose encoded header and stored bytes stand in `record`, padded to the alignment.
  /// Returns its offset.
  std::uint32_t append(const RecordHeader& header, std::span<const std::byte> record);

  /// Writes the footer and makes the pack durable under its name.
  void seal();

 private:
  PackId id_ = random_pack_id();
  std::unique_ptr<ObjectWriter> object_;
  std::uint64_t size_ = 0;
  std::vector<PackEntry> entries_;
};

struct PackContents {
  std::vector<PackEntry> entries;
  std::string problem;  ///< what is damaged of the pack's frame; empty when nothing is
};

/// Reads a pack's footer; when that is damaged, finds the intact records by reading the pack through. Throws Corruption
/// when it is no pack of this repository, NotFound.
[[nodiscard]] PackContents read_pack_entries(Store& store, const PackId& id, std::span<const std::byte, 16> repository);

}  // namespace stillpoint
