// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/tar-writer.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/text.hh"
#include "host/capture/file-system-reader.hh"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <locale.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::size_t most_tar_warnings = 100;
constexpr std::string_view access_acl = "system.posix_acl_access";
constexpr std::string_view default_acl = "system.posix_acl_default";

/// libarchive takes names for what the locale says: they are UTF-8, and where they are not, bytes.
class Utf8Scope {
 public:
  Utf8Scope() : utf8_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (utf8_ != nullptr) before_ = ::uselocale(utf8_);
  }
  Utf8Scope(const Utf8Scope&) = delete;
  Utf8Scope& operator=(const Utf8Scope&) = delete;
  ~Utf8Scope() {
    if (utf8_ == nullptr) return;
    ::uselocale(before_);
    ::freelocale(utf8_);
  }

 private:
  locale_t utf8_;
  locale_t before_ = nullptr;
};

unsigned archive_type(EntryType type) {
  switch (type) {
    case EntryType::directory:
      return AE_IFDIR;
    case EntryType::symlink:
      return AE_IFLNK;
    case EntryType::fifo:
      return AE_IFIFO;
    case EntryType::character_device:
      return AE_IFCHR;
    case EntryType::block_device:
      return AE_IFBLK;
    default:
      return AE_IFREG;
  }
}

struct AclEntry {
  int tag;
  int permissions;
  int id;
};

unsigned take_little_endian(std::string_view& text, std::size_t count) {
  unsigned value = 0;
  for (std::size_t i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(text[i]);
  text.remove_prefix(count);
  return value;
}

int archive_tag(unsigned tag) {
  switch (tag) {
    case 0x01:
      return ARCHIVE_ENTRY_ACL_USER_OBJ;
    case 0x02:
      return ARCHIVE_ENTRY_ACL_USER;
    case 0x04:
      return ARCHIVE_ENTRY_ACL_GROUP_OBJ;
    case 0x08:
      return ARCHIVE_ENTRY_ACL_GROUP;
    case 0x10:
      return ARCHIVE_ENTRY_ACL_MASK;
    case 0x20:
      return ARCHIVE_ENTRY_ACL_OTHER;
    default:
      return 0;
  }
}

/// What the kernel gives as the value of such an attribute; nothing when it is none.
std::optional<std::vector<AclEntry>> parse_acl(std::string_view value) {
  if (value.size() < 4 || value.size() % 8 != 4 || take_little_endian(value, 4) != 2) return std::nullopt;
  std::vector<AclEntry> entries;
  while (!value.empty()) {
    const int tag = archive_tag(take_little_endian(value, 2));
    const unsigned permissions = take_little_endian(value, 2);
    const unsigned id = take_little_endian(value, 4);
    if (tag == 0 || permissions > 7) return std::nullopt;
    const bool named = tag == ARCHIVE_ENTRY_ACL_USER || tag == ARCHIVE_ENTRY_ACL_GROUP;
    entries.push_back({tag, static_cast<int>(permissions), named ? static_cast<int>(id) : -1});
  }
  return entries;
}

/// Where a file has data; nothing when it has no holes.
std::vector<std::pair<std::uint64_t, std::uint64_t>> islands(const TreeEntry& entry) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> found;
  if (!entry.inline_content.empty() || entry.size == 0) return found;
  std::uint64_t bytes = 0;
  for (const TreeEntry::FileExtent& extent : entry.extents) {
    if (extent.file_offset >= entry.size) break;
    const std::uint64_t length = std::min(extent.length, entry.size - extent.file_offset);
    bytes += length;
    if (!found.empty() && found.back().first + found.back().second == extent.file_offset)
      found.back().second += length;
    else
      found.emplace_back(extent.file_offset, length);
  }
  if (bytes == entry.size) return {};
  if (found.empty()) found.emplace_back(entry.size, 0);  // a hole and nothing else
  return found;
}

}  // namespace

/// libarchive's side of it.
class TarWriter::Archive {
 public:
  explicit Archive(Output output) : output_(std::move(output)) {
    if (!archive_ || !entry_) throw std::bad_alloc();
    check(archive_write_set_format_pax(archive_.get()));
    // What GNU tar reads too.
    check(archive_write_set_format_option(archive_.get(), "pax", "xattrheader", "SCHILY"));
    check(archive_write_set_bytes_in_last_block(archive_.get(), 1));
    check(archive_write_open2(archive_.get(), this, nullptr, write, nullptr, nullptr));
  }

  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;
  /// One that was not finished must not get the end of one that was.
  ~Archive() { archive_write_fail(archive_.get()); }

  void begin(const TreeEntry& entry, const std::string& name, const std::string* first_name);
  void data(std::span<const std::byte> bytes);
  void zeros(std::uint64_t length);
  void finish() { check(archive_write_close(archive_.get())); }

  [[nodiscard]] bool add_acl(int type, std::string_view value);
  std::unordered_map<std::uint64_t, std::pair<std::string, std::uint32_t>> links;  ///< by inode: name, names to come
  std::string warning;                                                             ///< of the last entry

 private:
  /// A warning is one of a name that is no UTF-8: it is written as it is.
  void check(int result) {
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    if (result >= ARCHIVE_WARN) return;
    const char* text = archive_error_string(archive_.get());
    throw CaptureError(fmt::format("cannot be archived: {}", text != nullptr ? text : "unknown"));
  }

  static la_ssize_t write(struct archive* /*archive*/, void* user, const void* bytes, std::size_t count) noexcept {
    auto* self = static_cast<Archive*>(user);
    try {
      self->output_({static_cast<const std::byte*>(bytes), count});
      return static_cast<la_ssize_t>(count);
    } catch (...) {
      self->failure_ = std::current_exception();
      return -1;
    }
  }

  Output output_;
  std::exception_ptr failure_;
  CPtr<struct archive, archive_write_free> archive_{archive_write_new()};
  CPtr<struct archive_entry, archive_entry_free> entry_{archive_entry_new()};
};

bool TarWriter::Archive::add_acl(int type, std::string_view value) {
  const auto acl = parse_acl(value);
  if (!acl) return false;
  for (const AclEntry& each : *acl)
    archive_entry_acl_add_entry(entry_.get(), type, each.permissions, each.tag, each.id, nullptr);
  return true;
}

/// `first_name`: of the same file, where the archive has it already.
void TarWriter::Archive::begin(const TreeEntry& entry, const std::string& name, const std::string* first_name) {
  const Utf8Scope utf8;
  struct archive_entry* header = archive_entry_clear(entry_.get());
  archive_entry_copy_pathname(header, name.c_str());
  archive_entry_set_filetype(header, archive_type(entry.type));
  archive_entry_set_perm(header, entry.mode & 07777);
  archive_entry_set_uid(header, entry.uid);
  archive_entry_set_gid(header, entry.gid);
  // libarchive puts the fraction behind the seconds as they are: before 1970 too, they are to be rounded towards it.
  constexpr std::int64_t second = 1000000000;
  archive_entry_set_mtime(header, entry.mtime_ns / second, static_cast<long>(std::abs(entry.mtime_ns % second)));
  if (first_name != nullptr) {
    archive_entry_copy_hardlink(header, first_name->c_str());
    archive_entry_set_size(header, 0);
    return check(archive_write_header(archive_.get(), header));
  }
  if (entry.type == EntryType::symlink) archive_entry_copy_symlink(header, entry.target.c_str());
  if (entry.type == EntryType::character_device || entry.type == EntryType::block_device) {
    archive_entry_set_rdevmajor(header, entry.device_major);
    archive_entry_set_rdevminor(header, entry.device_minor);
  }
  for (const auto& [key, value] : entry.xattrs) {
    const bool is_acl = key == access_acl || key == default_acl;
    const int type = key == access_acl ? ARCHIVE_ENTRY_ACL_TYPE_ACCESS : ARCHIVE_ENTRY_ACL_TYPE_DEFAULT;
    if (!is_acl)
      archive_entry_xattr_add_entry(header, key.c_str(), value.data(), value.size());
    else if (!add_acl(type, value))
      warning = fmt::format("{}: an access control list that is damaged is left out", name);
  }
  if (entry.type == EntryType::file) {
    archive_entry_set_size(header, static_cast<la_int64_t>(entry.size));
    for (const auto& [offset, length] : islands(entry))
      archive_entry_sparse_add_entry(header, static_cast<la_int64_t>(offset), static_cast<la_int64_t>(length));
  }
  check(archive_write_header(archive_.get(), header));
}

void TarWriter::Archive::data(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const la_ssize_t written = archive_write_data(archive_.get(), bytes.data(), bytes.size());
    check(written <= 0 ? ARCHIVE_FATAL : ARCHIVE_OK);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

/// Where the archive knows of the hole, nothing is written.
void TarWriter::Archive::zeros(std::uint64_t length) {
  static constexpr std::array<std::byte, 1 << 20> nothing{};
  while (length > 0) {
    const std::size_t part = std::min<std::uint64_t>(length, nothing.size());
    data(std::span(nothing).first(part));
    length -= part;
    output_({});  // who may want to stop
  }
}

TarWriter::TarWriter(std::string start, std::string name, BlockReader& disk, Output output)
    : start_(std::move(start)),
      name_(std::move(name)),
      disk_(disk),
      archive_(std::make_unique<Archive>(std::move(output))) {}

TarWriter::~TarWriter() = default;

std::string TarWriter::name_of(const std::string& path) const {
  std::string_view below = std::string_view(path).substr(std::min(start_.size(), path.size()));
  while (below.starts_with('/'))
    below.remove_prefix(1);
  return below.empty() ? name_ : name_ + "/" + std::string(below);
}

void TarWriter::entry(const TreeEntry& entry) {
  const std::string name = name_of(entry.path);
  const auto warn = [&](std::string text) {
    if (counts_.warnings.size() < most_tar_warnings) counts_.warnings.push_back(printable(text));
  };
  if (entry.type == EntryType::socket) return warn(fmt::format("{}: a socket, which no archive holds", name));
  ++counts_.entries;
  const bool has_names = entry.links > 1 && entry.type != EntryType::directory;
  if (has_names) {
    if (const auto first = archive_->links.find(entry.inode); first != archive_->links.end()) {
      archive_->begin(entry, name, &first->second.first);
      if (--first->second.second == 0) archive_->links.erase(first);
      return;
    }
    archive_->links.emplace(entry.inode, std::pair(name, entry.links - 1));
  }
  archive_->begin(entry, name, nullptr);
  if (!archive_->warning.empty()) warn(std::exchange(archive_->warning, {}));
  if (entry.type != EntryType::file) return;
  counts_.bytes += entry.size;
  read_file(disk_, entry, [&](const FileContent& content) {
    if (content.bytes.empty())
      archive_->zeros(content.length);
    else
      archive_->data(content.bytes);
  });
}

TarCounts TarWriter::finish() {
  archive_->finish();
  return std::move(counts_);
}

}  // namespace stillpoint
