// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// What a file system reader and its sandboxed worker say to each other over a socket pair: messages of a header (type,
/// length) and a payload. The reader treats every byte of it as hostile. The appliance's worker speaks the same, and
/// so does the one that has our own kernel mount: they are asked for other things where "appliance" or "kernel" stands,
/// and read blocks over a socket of their own.
namespace stillpoint::wire {

enum class Type : std::uint32_t {
  list,          ///< reader -> worker: u64 disk size;
                 ///< appliance: u32 count, disks (string name, u64 size), u32 count, keys (string);
                 ///< kernel: u32 count, file systems (string name, u64 size, string type)
  volumes,       ///< reader -> worker: u64 disk size, u32 count, physical volumes (u64 offset, u64 length);
                 ///< worker -> reader: u32 count, then each; ends the question
  walk,          ///< reader -> worker: u64 disk size, u64 offset, u64 length, string path, u8 recursive;
                 ///< appliance: u32 number, string path, u8 recursive
  next,          ///< reader -> appliance: entries were taken;
                 ///< kernel -> reader, before file_systems: one is mounted, or cannot be
  content,       ///< reader -> appliance: u64 offset, u32 length; the answer is blocks
  blocks,        ///< reader -> worker: the bytes that were asked for
  read,          ///< worker -> reader: u64 offset, u32 length
  file_systems,  ///< worker -> reader: u32 count, then each; ends a list
  entries,       ///< worker -> reader: entries, one after the other; the appliance waits for next after each
  warning,       ///< worker -> reader: string
  end,           ///< worker -> reader: ends a walk
  not_found,     ///< worker -> reader: string; ends a walk
  failure,       ///< worker -> reader: string; ends what was asked
};

inline constexpr std::size_t header_bytes = 8;
inline constexpr std::size_t max_message = std::size_t{64} << 20;
inline constexpr std::size_t max_read = std::size_t{1} << 20;  ///< bytes of one block request
inline constexpr std::size_t max_text = 4096;                  ///< of warnings and failures
inline constexpr std::size_t max_file_systems = 1024;
inline constexpr std::size_t max_volumes = 1024;      ///< logical ones, and physical ones
inline constexpr std::size_t max_pieces = 65536;      ///< of one logical volume
inline constexpr std::size_t max_volume_name = 255;   ///< bytes of "group/volume"
inline constexpr std::size_t max_disks = 256;         ///< of one guest
inline constexpr std::size_t max_key = 65536;         ///< bytes of a passphrase
inline constexpr std::size_t max_depth = 2000;        ///< of directories in each other
inline constexpr std::size_t max_path = 65536;        ///< bytes
inline constexpr std::size_t max_name = 255;          ///< bytes
inline constexpr std::size_t max_target = 4095;       ///< bytes of a symbolic link
inline constexpr std::size_t max_inline = 65536;      ///< bytes of content in an inode
inline constexpr std::size_t max_xattrs = 1024;       ///< of one inode
inline constexpr std::size_t max_xattr = 65536;       ///< bytes of one value
inline constexpr std::size_t max_extents = 1000000;   ///< of one file
inline constexpr std::size_t batch_bytes = 64 << 10;  ///< entries are sent when they come to this

struct Message {
  Type type = Type::failure;
  std::string payload;
};

/// Appends integers (little-endian) and strings (u32 length, bytes) to a message, whose header is first.
class Writer {
 public:
  explicit Writer(Type type);

  void u8(std::uint8_t value) { bytes_.push_back(static_cast<char>(value)); }
  void u32(std::uint32_t value) { integer(value, 4); }
  void u64(std::uint64_t value) { integer(value, 8); }
  void string(std::string_view text) {
    u32(static_cast<std::uint32_t>(text.size()));
    bytes_ += text;
  }

  /// Without a length: what is left of the message.
  void bytes(std::string_view content) { bytes_ += content; }

  [[nodiscard]] std::size_t payload_size() const noexcept { return bytes_.size() - header_bytes; }
  /// The message, its length filled in.
  [[nodiscard]] std::string_view finish();
  /// Begins another one of the same type.
  void restart() { bytes_.resize(header_bytes); }

 private:
  void integer(std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i)
      bytes_.push_back(static_cast<char>(value >> (8 * i)));
  }
  std::string bytes_;
};

/// Takes them out again. Throws CaptureError where the message ends too early or a string is longer than allowed.
class Reader {
 public:
  explicit Reader(std::string_view payload) : rest_(payload) {}

  [[nodiscard]] std::uint8_t u8() { return static_cast<std::uint8_t>(integer(1)); }
  [[nodiscard]] std::uint32_t u32() { return static_cast<std::uint32_t>(integer(4)); }
  [[nodiscard]] std::uint64_t u64() { return integer(8); }
  [[nodiscard]] std::string_view string(std::size_t limit);
  [[nodiscard]] bool empty() const noexcept { return rest_.empty(); }

 private:
  [[nodiscard]] std::uint64_t integer(std::size_t count);
  std::string_view take(std::size_t count);
  std::string_view rest_;
};

/// The first `header_bytes` of a message. Throws CaptureError for an unknown type or a length beyond the limit.
struct Header {
  Type type;
  std::uint32_t length;
};
[[nodiscard]] Header parse_header(std::string_view bytes);

/// The other way round.
void write_header(Type type, std::uint32_t length, std::span<std::byte, header_bytes> bytes) noexcept;

/// An entry as it is sent: its path is its depth below the walk's start (0: the start itself) and its last name.
void write_entry(Writer& writer, std::uint32_t depth, std::string_view name, const TreeEntry& entry);

/// The next entry of a message; the path is the caller's to fill in from `depth` and `name`. Checks every value that
/// stands for itself, and that extents ascend and lie inside `disk_size`. Throws CaptureError.
struct ReceivedEntry {
  std::uint32_t depth = 0;
  std::string name;
  TreeEntry entry;
};
void read_entry(Reader& reader, std::uint64_t disk_size, ReceivedEntry& received);

/// Whether `name` may be a directory's entry: 1 to 255 bytes, no '/' or NUL, not "." or "..".
[[nodiscard]] bool is_name(std::string_view name);

}  // namespace stillpoint::wire
