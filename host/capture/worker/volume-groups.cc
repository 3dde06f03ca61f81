// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/volume-groups.hh"

#include "common/errors.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/disk-bytes.hh"
#include "host/capture/worker/lvm-text.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string_view>

namespace stillpoint {
namespace {

constexpr std::uint64_t sector_bytes = 512;
constexpr std::size_t id_bytes = 32;
constexpr std::size_t most_areas = 16;
/// Of all physical volumes, each of which should have the same.
constexpr std::size_t most_text = 4 * LvmSection::most_bytes;
constexpr std::uint32_t crc_begin = 0xf597a6cf;
constexpr std::string_view area_magic = " LVM2 x[5A%r0N*>";

/// Reads inside one physical volume.
struct PhysicalVolume {
  const DiskRange& disk;
  DiskPiece range;
  std::string id;
  std::vector<DiskPiece> areas;  ///< of metadata, from the range's begin

  bool read(std::span<std::byte> buffer, std::uint64_t offset) const {
    return offset <= range.length && buffer.size() <= range.length - offset && disk.read(buffer, range.offset + offset);
  }
};

/// One group's newest metadata.
struct VolumeGroup {
  std::string name;
  std::uint64_t sequence = 0;
  LvmSection section;
};

/// A list of offsets and lengths that ends in zeros, from `at` on; moves `at` behind it.
std::vector<DiskPiece> areas_at(std::span<const std::byte> sector, std::size_t& at) {
  std::vector<DiskPiece> areas;
  while (at + 16 <= sector.size()) {
    const DiskPiece area = {number_at(sector, at, 8), number_at(sector, at + 8, 8)};
    at += 16;
    if (area.offset == 0) return areas;
    if (areas.size() < most_areas) areas.push_back(area);
  }
  return {};
}

/// Its label and header, in one of the first four sectors.
bool read_label(PhysicalVolume& volume) {
  for (std::uint64_t number = 0; number < 4; ++number) {
    std::array<std::byte, sector_bytes> sector{};
    if (!volume.read(sector, number * sector_bytes)) return false;
    if (std::memcmp(sector.data(), "LABELONE", 8) != 0 || std::memcmp(sector.data() + 24, "LVM2 001", 8) != 0) continue;
    if (number_at(sector, 8, 8) != number) continue;
    if (plain_crc32(crc_begin, std::span(sector).subspan(20)) != number_at(sector, 16, 4)) continue;
    std::size_t at = number_at(sector, 20, 4);
    if (at < 32 || at + id_bytes + 8 > sector.size()) continue;
    volume.id.assign(reinterpret_cast<const char*>(sector.data()) + at, id_bytes);
    at += id_bytes + 8;
    static_cast<void>(areas_at(sector, at));  // of contents: the metadata says where they begin
    volume.areas = areas_at(sector, at);
    return true;
  }
  return false;
}

/// The text that an area's header vouches for; nothing when there is none, or it is damaged.
std::optional<std::string> read_text(const PhysicalVolume& volume, const DiskPiece& area) {
  std::array<std::byte, sector_bytes> header{};
  if (area.length <= sector_bytes || !volume.read(header, area.offset)) return std::nullopt;
  if (plain_crc32(crc_begin, std::span(header).subspan(4)) != number_at(header, 0, 4)) return std::nullopt;
  if (std::memcmp(header.data() + 4, area_magic.data(), area_magic.size()) != 0) return std::nullopt;
  if (number_at(header, 20, 4) != 1 || number_at(header, 24, 8) != area.offset) return std::nullopt;
  const std::uint64_t size = std::min(number_at(header, 32, 8), area.length);
  const std::uint64_t begin = number_at(header, 40, 8);
  const std::uint64_t length = number_at(header, 48, 8);
  const std::uint64_t flags = number_at(header, 60, 4);
  if (begin < sector_bytes || begin >= size || length == 0 || length > size - sector_bytes || (flags & 1) != 0 ||
      length > LvmSection::most_bytes)
    return std::nullopt;
  // It is a ring behind the header.
  std::string text(length, '\0');
  const auto bytes = std::as_writable_bytes(std::span(text));
  const std::uint64_t first = std::min(length, size - begin);
  if (!volume.read(bytes.first(first), area.offset + begin)) return std::nullopt;
  if (first < length && !volume.read(bytes.subspan(first), area.offset + sector_bytes)) return std::nullopt;
  if (plain_crc32(crc_begin, bytes) != number_at(header, 56, 4)) return std::nullopt;
  return text;
}

/// As it stands in a label: without the dashes.
std::string plain_id(std::string id) {
  std::erase(id, '-');
  return id.size() == id_bytes ? id : std::string();
}

bool is_volume_name(std::string_view name) {
  return !name.empty() && name.size() <= 127 && name != "." && name != ".." && name.front() != '-' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
                  c == '+' || c == '-';
         });
}

void add_group(std::map<std::string, VolumeGroup>& groups, const std::string& text) {
  LvmSection parsed = LvmSection::parse(text);
  for (const auto& [name, section] : parsed.sections()) {
    const std::string id = plain_id(section.string("id").value_or(""));
    const std::uint64_t sequence = section.number("seqno").value_or(0);
    if (id.empty() || !is_volume_name(name)) continue;
    VolumeGroup& group = groups[id];
    if (!group.name.empty() && group.sequence >= sequence) continue;
    group = {name, sequence, section};
  }
}

/// Makes the volumes of one group out of its metadata.
class GroupReader {
 public:
  GroupReader(const VolumeGroup& group, std::span<const PhysicalVolume> found) : group_(group) {
    const LvmSection* volumes = group.section.section("physical_volumes");
    if (volumes == nullptr) return;
    for (const auto& [name, section] : volumes->sections()) {
      const std::string id = plain_id(section.string("id").value_or(""));
      const auto is_it = [&id](const PhysicalVolume& volume) { return !id.empty() && volume.id == id; };
      Physical physical;
      physical.begin = section.number("pe_start");
      physical.copies = static_cast<std::size_t>(std::count_if(found.begin(), found.end(), is_it));
      if (physical.copies == 1) physical.range = std::find_if(found.begin(), found.end(), is_it)->range;
      physical_.emplace(name, physical);
    }
  }

  void read(std::vector<LogicalVolume>& volumes) {
    const LvmSection* logical = group_.section.section("logical_volumes");
    if (logical == nullptr) return;
    find_snapshots(*logical);
    for (const auto& [name, section] : logical->sections()) {
      if (!section.list_has("status", "VISIBLE") || !is_volume_name(name)) continue;
      if (volumes.size() == wire::max_volumes) throw CaptureError("more logical volumes than are looked at");
      LogicalVolume volume;
      volume.name = group_.name + "/" + name;
      volume.uuid = section.string("id").value_or("");
      volume.obstacle = snapshots_.contains(name) ? "it is an LVM snapshot" : add_pieces(section, volume);
      if (!volume.obstacle.empty()) volume.pieces.clear();
      volumes.push_back(std::move(volume));
    }
  }

 private:
  struct Physical {
    std::optional<std::uint64_t> begin;  ///< of its extents, in sectors
    std::size_t copies = 0;              ///< how many ranges say they are this one
    DiskPiece range;
  };

  /// A snapshot's own segments hold what its origin had before: they are not its content.
  void find_snapshots(const LvmSection& logical) {
    for (const auto& [name, section] : logical.sections())
      for (const auto& [number, segment] : section.sections())
        for (const char* key : {"cow_store", "merging_store"})
          if (const auto store = segment.string(key)) snapshots_.insert(*store);
  }

  /// What hinders; empty when nothing does.
  std::string add_pieces(const LvmSection& section, LogicalVolume& volume) {
    const std::uint64_t count = section.number("segment_count").value_or(0);
    if (count == 0 || count > wire::max_pieces) return "its metadata is damaged";
    std::uint64_t reached = 0;
    for (std::uint64_t i = 1; i <= count; ++i) {
      const LvmSection* segment = section.section(fmt::format("segment{}", i));
      if (segment == nullptr || segment->number("start_extent") != reached) return "its metadata is damaged";
      const std::uint64_t extents = segment->number("extent_count").value_or(0);
      if (extents == 0 || extents > UINT32_MAX) return "its metadata is damaged";
      if (std::string obstacle = add_segment(*segment, extents, volume); !obstacle.empty()) return obstacle;
      reached += extents;
    }
    return {};
  }

  std::string add_segment(const LvmSection& segment, std::uint64_t extents, LogicalVolume& volume) const {
    const std::string type = segment.string("type").value_or("");
    if (type != "striped" && type != "linear") return fmt::format("it is of LVM's type {}", type.substr(0, 32));
    if (segment.number("stripe_count") != 1) return "it is striped";
    const std::vector<std::string>& stripe = segment.list("stripes");
    if (stripe.size() != 2) return "its metadata is damaged";
    const auto found = physical_.find(stripe[0]);
    if (found == physical_.end()) return "it lies on another logical volume";
    const Physical& physical = found->second;
    if (physical.copies == 0) return fmt::format("its physical volume {} is missing", stripe[0].substr(0, 128));
    if (physical.copies > 1) return fmt::format("its physical volume {} is there twice", stripe[0].substr(0, 128));
    std::uint64_t first = 0;
    const auto [end, error] = std::from_chars(stripe[1].data(), stripe[1].data() + stripe[1].size(), first);
    const std::uint64_t extent_size = group_.section.number("extent_size").value_or(0);
    // So small that their products cannot overflow.
    if (error != std::errc{} || extent_size == 0 || extent_size > UINT32_MAX / sector_bytes || first > UINT32_MAX ||
        !physical.begin || *physical.begin > physical.range.length / sector_bytes)
      return "its metadata is damaged";
    const std::uint64_t extent_bytes = extent_size * sector_bytes;
    const std::uint64_t begin = *physical.begin * sector_bytes;
    const std::uint64_t whole = (physical.range.length - begin) / extent_bytes;
    if (first > whole || extents > whole - first) return "it reaches beyond its physical volume";
    add_piece({physical.range.offset + begin + first * extent_bytes, extents * extent_bytes}, volume.pieces);
    return {};
  }

  static void add_piece(const DiskPiece& piece, std::vector<DiskPiece>& pieces) {
    if (!pieces.empty() && pieces.back().offset + pieces.back().length == piece.offset)
      pieces.back().length += piece.length;
    else
      pieces.push_back(piece);
  }

  const VolumeGroup& group_;
  std::map<std::string, Physical, std::less<>> physical_;
  std::set<std::string, std::less<>> snapshots_;
};

}  // namespace

std::vector<LogicalVolume> read_volume_groups(const DiskRange& disk, std::span<const DiskPiece> ranges) {
  std::vector<PhysicalVolume> found;
  std::map<std::string, VolumeGroup> groups;
  std::set<std::string> texts;
  std::size_t text_bytes = 0;
  for (const DiskPiece& range : ranges) {
    PhysicalVolume volume{disk, range, {}, {}};
    if (!read_label(volume)) continue;
    for (const DiskPiece& area : volume.areas) {
      const std::optional<std::string> text = read_text(volume, area);
      if (!text || texts.contains(*text)) continue;
      text_bytes += text->size();
      if (text_bytes > most_text) throw CaptureError("more metadata of LVM than there can be");
      texts.insert(*text);
      try {
        add_group(groups, *text);
      } catch (const CaptureError&) {
        continue;  // another area or disk has it too
      }
    }
    found.push_back(std::move(volume));
  }
  std::vector<LogicalVolume> volumes;
  for (const auto& [id, group] : groups)
    GroupReader(group, found).read(volumes);
  std::stable_sort(volumes.begin(), volumes.end(),
                   [](const LogicalVolume& a, const LogicalVolume& b) { return a.name < b.name; });
  return volumes;
}

}  // namespace stillpoint
