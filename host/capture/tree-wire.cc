// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-wire.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace stillpoint::wire {
namespace {

[[noreturn]] void refuse(std::string_view what) {
  throw CaptureError(fmt::format("the file system's worker sent {}", what));
}

void check(bool good, std::string_view what) {
  if (!good) refuse(what);
}

bool is_xattr_name(std::string_view name) {
  static constexpr std::array<std::string_view, 4> prefixes = {"user.", "trusted.", "security.", "system.posix_acl_"};
  return name.size() <= max_name && name.find('\0') == std::string_view::npos &&
         std::any_of(prefixes.begin(), prefixes.end(), [&name](std::string_view prefix) {
           return name.size() > prefix.size() && name.substr(0, prefix.size()) == prefix;
         });
}

void read_extents(Reader& reader, std::uint64_t disk_size, TreeEntry& entry) {
  const std::uint32_t count = reader.u32();
  check(count <= max_extents, "too many extents");
  entry.extents.clear();
  std::uint64_t reached = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const TreeEntry::FileExtent extent = {reader.u64(), reader.u64(), reader.u64()};
    check(extent.length > 0 && extent.file_offset >= reached && extent.file_offset < entry.size &&
              extent.length <= UINT64_MAX - extent.file_offset,
          "extents out of order");
    check(extent.disk_offset <= disk_size && extent.length <= disk_size - extent.disk_offset,
          "an extent outside the disk");
    reached = extent.file_offset + extent.length;
    entry.extents.push_back(extent);
  }
  check(count == 0 || entry.type == EntryType::file, "extents of what is no file");
}

void read_xattrs(Reader& reader, TreeEntry& entry) {
  const std::uint32_t count = reader.u32();
  check(count <= max_xattrs, "too many extended attributes");
  entry.xattrs.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    std::string name(reader.string(max_name));
    check(is_xattr_name(name), "a bad name of an extended attribute");
    entry.xattrs.emplace_back(std::move(name), reader.string(max_xattr));
  }
}

}  // namespace

Writer::Writer(Type type) {
  u32(static_cast<std::uint32_t>(type));
  u32(0);
}

std::string_view Writer::finish() {
  const std::size_t length = payload_size();
  for (std::size_t i = 0; i < 4; ++i)
    bytes_[4 + i] = static_cast<char>(length >> (8 * i));
  return bytes_;
}

std::string_view Reader::take(std::size_t count) {
  check(rest_.size() >= count, "a message that ends too early");
  const std::string_view taken = rest_.substr(0, count);
  rest_.remove_prefix(count);
  return taken;
}

std::uint64_t Reader::integer(std::size_t count) {
  std::uint64_t value = 0;
  const std::string_view bytes = take(count);
  for (std::size_t i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

std::string_view Reader::string(std::size_t limit) {
  const std::uint32_t length = u32();
  check(length <= limit, "a string that is too long");
  return take(length);
}

Header parse_header(std::string_view bytes) {
  Reader reader(bytes);
  const std::uint32_t type = reader.u32();
  const std::uint32_t length = reader.u32();
  check(type <= static_cast<std::uint32_t>(Type::failure), "a message of an unknown type");
  check(length <= max_message, "a message that is too long");
  return {Type(type), length};
}

void write_header(Type type, std::uint32_t length, std::span<std::byte, header_bytes> bytes) noexcept {
  for (std::size_t i = 0; i < 4; ++i) {
    bytes[i] = static_cast<std::byte>(static_cast<std::uint32_t>(type) >> (8 * i));
    bytes[4 + i] = static_cast<std::byte>(length >> (8 * i));
  }
}

void write_entry(Writer& writer, std::uint32_t depth, std::string_view name, const TreeEntry& entry) {
  writer.u32(depth);
  writer.string(name);
  writer.u8(static_cast<std::uint8_t>(entry.type));
  writer.u32(entry.mode);
  writer.u32(entry.uid);
  writer.u32(entry.gid);
  writer.u64(static_cast<std::uint64_t>(entry.mtime_ns));
  writer.u64(entry.size);
  writer.u64(entry.inode);
  writer.u32(entry.links);
  writer.u32(entry.device_major);
  writer.u32(entry.device_minor);
  writer.string(entry.target);
  writer.string(entry.inline_content);
  writer.u32(static_cast<std::uint32_t>(entry.xattrs.size()));
  for (const auto& [key, value] : entry.xattrs) {
    writer.string(key);
    writer.string(value);
  }
  writer.u32(static_cast<std::uint32_t>(entry.extents.size()));
  for (const TreeEntry::FileExtent& extent : entry.extents) {
    writer.u64(extent.file_offset);
    writer.u64(extent.disk_offset);
    writer.u64(extent.length);
  }
}

void read_entry(Reader& reader, std::uint64_t disk_size, ReceivedEntry& received) {
  TreeEntry& entry = received.entry;
  received.depth = reader.u32();
  check(received.depth <= max_depth, "an entry that lies too deep");
  received.name = reader.string(max_name);
  check(received.depth == 0 ? received.name.empty() : is_name(received.name), "a bad name");
  const std::uint8_t type = reader.u8();
  check(type <= static_cast<std::uint8_t>(EntryType::block_device), "an entry of an unknown type");
  entry.type = EntryType(type);
  entry.mode = reader.u32();
  check((entry.mode & ~07777U) == 0, "a bad mode");
  entry.uid = reader.u32();
  entry.gid = reader.u32();
  entry.mtime_ns = static_cast<std::int64_t>(reader.u64());
  entry.size = reader.u64();
  check(entry.size <= INT64_MAX && (entry.size == 0 || entry.type == EntryType::file), "a bad size");
  entry.inode = reader.u64();
  entry.links = reader.u32();
  entry.device_major = reader.u32();
  entry.device_minor = reader.u32();
  check(entry.device_major < 1U << 12 && entry.device_minor < 1U << 20, "a bad device number");
  entry.target = reader.string(max_target);
  check(entry.type == EntryType::symlink ? !entry.target.empty() && entry.target.find('\0') == std::string::npos
                                         : entry.target.empty(),
        "a bad target of a symbolic link");
  entry.inline_content = reader.string(max_inline);
  check(entry.inline_content.empty() || (entry.type == EntryType::file && entry.inline_content.size() <= entry.size),
        "bad content in an inode");
  read_xattrs(reader, entry);
  read_extents(reader, disk_size, entry);
  check(entry.inline_content.empty() || entry.extents.empty(), "content in two places");
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= max_name && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos && name != "." && name != "..";
}

}  // namespace stillpoint::wire
