// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/pack.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/checksum.hh"
#include "host/repository/little-endian.hh"
#include "host/repository/queued-writer.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace stillpoint {

namespace {

constexpr std::string_view pack_magic = "STILLPCK";
constexpr std::string_view trailer_magic = "STILLEND";
constexpr std::uint32_t record_magic = 0x31525053;  // "SPR1"
constexpr std::uint32_t pack_version = 1;
/// Of records, and of packs that have such.
constexpr std::byte sealed_flag{1};
constexpr std::size_t footer_entry_bytes = 48;
constexpr std::size_t trailer_bytes = 32;

bool has_magic(std::span<const std::byte> bytes, std::string_view magic) {
  return std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

void put_magic(std::byte* to, std::string_view magic) {
  std::memcpy(to, magic.data(), magic.size());
}

/// Puts the CRC of everything before it into the last four bytes.
void close_with_crc(std::span<std::byte> block) {
  put_le(block.data() + block.size() - 4, crc32c(block.first(block.size() - 4)));
}

bool crc_holds(std::span<const std::byte> block) {
  return get_le<std::uint32_t>(block.data() + block.size() - 4) == crc32c(block.first(block.size() - 4));
}

bool valid_kinds(std::byte codec, std::byte flags, std::byte kind, std::byte reserved) {
  return codec <= std::byte{1} && flags <= sealed_flag && kind <= std::byte{1} && reserved == std::byte{0};
}

bool valid_lengths(Codec codec, std::uint32_t stored, std::uint32_t plain, bool sealed) {
  const std::uint32_t overhead = sealed ? sealed_record_bytes : 0;
  if (plain == 0 || plain > max_chunk_bytes || stored <= overhead) return false;
  return codec == Codec::zstd ? stored - overhead <= plain : stored - overhead == plain;
}

void encode_entry(const PackEntry& entry, std::byte* to) {
  std::memcpy(to, entry.id.bytes.data(), 32);
  put_le(to + 32, entry.offset);
  put_le(to + 36, entry.stored);
  put_le(to + 40, entry.plain);
  to[44] = static_cast<std::byte>(entry.codec);
  to[45] = entry.sealed ? sealed_flag : std::byte{0};
  to[46] = static_cast<std::byte>(entry.kind);
  to[47] = std::byte{0};
}

/// Nothing when the entry cannot be one of a pack whose records end at `end`.
std::optional<PackEntry> decode_entry(const std::byte* from, std::uint64_t end) {
  PackEntry entry;
  std::memcpy(entry.id.bytes.data(), from, 32);
  entry.offset = get_le<std::uint32_t>(from + 32);
  entry.stored = get_le<std::uint32_t>(from + 36);
  entry.plain = get_le<std::uint32_t>(from + 40);
  if (!valid_kinds(from[44], from[45], from[46], from[47])) return std::nullopt;
  entry.codec = static_cast<Codec>(from[44]);
  entry.kind = static_cast<RecordKind>(from[46]);
  entry.sealed = from[45] == sealed_flag;
  if (!valid_lengths(entry.codec, entry.stored, entry.plain, entry.sealed) || entry.offset < pack_header_bytes ||
      entry.offset % record_alignment != 0 || std::uint64_t{entry.offset} + record_header_bytes + entry.stored > end)
    return std::nullopt;
  return entry;
}

std::optional<std::vector<PackEntry>> read_footer(ObjectReader& pack) {
  if (pack.size() < pack_header_bytes + trailer_bytes) return std::nullopt;
  std::array<std::byte, trailer_bytes> trailer;
  pack.read(pack.size() - trailer_bytes, trailer);
  if (!has_magic(trailer, trailer_magic) || !crc_holds(trailer)) return std::nullopt;
  const std::uint64_t offset = get_le<std::uint64_t>(trailer.data() + 8);
  const std::uint64_t count = get_le<std::uint32_t>(trailer.data() + 16);
  if (offset < pack_header_bytes || offset > pack.size() ||
      pack.size() - offset != count * footer_entry_bytes + trailer_bytes)
    return std::nullopt;
  std::vector<std::byte> footer(count * footer_entry_bytes);
  pack.read(offset, footer);
  if (crc32c(footer) != get_le<std::uint32_t>(trailer.data() + 20)) return std::nullopt;
  std::vector<PackEntry> entries;
  entries.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::optional<PackEntry> entry = decode_entry(footer.data() + i * footer_entry_bytes, offset);
    if (!entry) return std::nullopt;
    entries.push_back(*entry);
  }
  return entries;
}

/// Finds what is intact by the records themselves; a bounded window at a time.
std::vector<PackEntry> scan_records(ObjectReader& pack) {
  constexpr std::size_t window_bytes = 1 << 20;
  std::vector<PackEntry> entries;
  std::vector<std::byte> window;
  std::vector<std::byte> payload;
  std::uint64_t window_start = 0;
  std::uint64_t at = pack_header_bytes;
  while (at + record_header_bytes <= pack.size()) {
    if (window.empty() || at < window_start || at + record_header_bytes > window_start + window.size()) {
      window_start = at;
      window.resize(std::min<std::uint64_t>(window_bytes, pack.size() - at));
      pack.read(at, window);
    }
    const std::span<const std::byte, record_header_bytes> bytes(window.data() + (at - window_start),
                                                                record_header_bytes);
    const std::optional<RecordHeader> header = decode_record_header(bytes);
    if (!header || at + record_header_bytes + header->stored > pack.size()) {
      at += record_alignment;
      continue;
    }
    payload.resize(header->stored);
    pack.read(at + record_header_bytes, payload);
    if (crc32c(payload) == header->payload_crc)
      entries.push_back({header->id, static_cast<std::uint32_t>(at), header->stored, header->plain, header->codec,
                         header->kind, header->sealed});
    at += record_length(header->stored);
  }
  return entries;
}

}  // namespace

PackId random_pack_id() {
  PackId id;
  static_cast<void>(hex_to_bytes(random_id(), id.bytes));
  return id;
}

std::string object_name(const PackId& id) {
  const std::string hex = bytes_to_hex(id.bytes);
  return fmt::format("packs/{}/{}", hex.substr(0, 2), hex);
}

std::optional<PackId> parse_pack_name(std::string_view name) {
  PackId id;
  const std::size_t slash = name.rfind('/');
  if (slash == std::string_view::npos || !hex_to_bytes(name.substr(slash + 1), id.bytes)) return std::nullopt;
  if (object_name(id) != name) return std::nullopt;
  return id;
}

void encode(const RecordHeader& header, std::span<std::byte, record_header_bytes> to) noexcept {
  put_le(to.data(), record_magic);
  to[4] = static_cast<std::byte>(header.codec);
  to[5] = header.sealed ? sealed_flag : std::byte{0};
  to[6] = static_cast<std::byte>(header.kind);
  to[7] = std::byte{0};
  put_le(to.data() + 8, header.stored);
  put_le(to.data() + 12, header.plain);
  std::memcpy(to.data() + 16, header.id.bytes.data(), 32);
  put_le(to.data() + 48, header.payload_crc);
  close_with_crc(to);
}

std::optional<RecordHeader> decode_record_header(std::span<const std::byte, record_header_bytes> from) {
  if (get_le<std::uint32_t>(from.data()) != record_magic || !crc_holds(from)) return std::nullopt;
  if (!valid_kinds(from[4], from[5], from[6], from[7])) return std::nullopt;
  RecordHeader header;
  header.codec = static_cast<Codec>(from[4]);
  header.kind = static_cast<RecordKind>(from[6]);
  header.stored = get_le<std::uint32_t>(from.data() + 8);
  header.plain = get_le<std::uint32_t>(from.data() + 12);
  std::memcpy(header.id.bytes.data(), from.data() + 16, 32);
  header.payload_crc = get_le<std::uint32_t>(from.data() + 48);
  header.sealed = from[5] == sealed_flag;
  if (!valid_lengths(header.codec, header.stored, header.plain, header.sealed)) return std::nullopt;
  return header;
}

PackWriter::PackWriter(Store& store, std::span<const std::byte, 16> repository, bool sealed)
    : object_(std::make_unique<QueuedWriter>(store.writer(object_name(id_)))) {
  std::array<std::byte, pack_header_bytes> header{};
  put_magic(header.data(), pack_magic);
  put_le(header.data() + 8, pack_version);
  header[12] = sealed ? sealed_flag : std::byte{0};
  std::memcpy(header.data() + 16, id_.bytes.data(), 16);
  std::memcpy(header.data() + 32, repository.data(), 16);
  close_with_crc(header);
  object_->append(header);
  size_ = header.size();
}

std::uint32_t PackWriter::append(const RecordHeader& header, std::span<const std::byte> record) {
  const auto offset = static_cast<std::uint32_t>(size_);
  object_->append(record);
  size_ += record.size();
  entries_.push_back({header.id, offset, header.stored, header.plain, header.codec, header.kind, header.sealed});
  return offset;
}

void PackWriter::seal() {
  std::vector<std::byte> end(entries_.size() * footer_entry_bytes + trailer_bytes);
  for (std::size_t i = 0; i < entries_.size(); ++i)
    encode_entry(entries_[i], end.data() + i * footer_entry_bytes);
  const std::span<std::byte> trailer = std::span(end).last(trailer_bytes);
  put_magic(trailer.data(), trailer_magic);
  put_le(trailer.data() + 8, size_);
  put_le(trailer.data() + 16, static_cast<std::uint32_t>(entries_.size()));
  put_le(trailer.data() + 20, crc32c(std::span(end).first(end.size() - trailer_bytes)));
  close_with_crc(trailer);
  object_->append(end);
  object_->commit();
}

PackContents read_pack_entries(Store& store, const PackId& id, std::span<const std::byte, 16> repository) {
  const std::unique_ptr<ObjectReader> pack = store.reader(object_name(id));
  const std::string name = fmt::format("pack {}", bytes_to_hex(id.bytes));
  if (pack->size() > max_pack_bytes) throw Corruption(fmt::format("{} has {} bytes, too many", name, pack->size()));
  if (pack->size() < pack_header_bytes) throw Corruption(fmt::format("{} is cut short", name));
  PackContents contents;
  std::array<std::byte, pack_header_bytes> header;
  pack->read(0, header);
  // A damaged header does not make its records worse; one that is intact must be of this pack and repository.
  if (has_magic(header, pack_magic) && crc_holds(header)) {
    if (const auto version = get_le<std::uint32_t>(header.data() + 8); version != pack_version)
      throw ConfigError(fmt::format("{} has format {}, this program knows {}", name, version, pack_version),
                        "use a newer stillpoint");
    if (get_le<std::uint32_t>(header.data() + 12) > 1)
      throw ConfigError(fmt::format("{} has flags that this program does not know", name), "use a newer stillpoint");
    if (std::memcmp(header.data() + 16, id.bytes.data(), 16) != 0 ||
        std::memcmp(header.data() + 32, repository.data(), 16) != 0)
      throw Corruption(fmt::format("{} belongs to another repository or name", name));
  } else {
    contents.problem = fmt::format("{} has a damaged header", name);
  }
  if (std::optional<std::vector<PackEntry>> entries = read_footer(*pack)) {
    contents.entries = std::move(*entries);
  } else {
    contents.problem = fmt::format("{} has a damaged footer: its records were read instead", name);
    contents.entries = scan_records(*pack);
  }
  return contents;
}

}  // namespace stillpoint
