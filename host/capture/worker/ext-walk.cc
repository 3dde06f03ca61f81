// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/ext-walk.hh"

#include "common/errors.hh"
#include "host/capture/worker/ext-inode.hh"
#include "host/capture/worker/ext-io.hh"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>
#include <unordered_set>
#include <vector>

namespace stillpoint {
namespace {

constexpr std::size_t most_names = 8000000;  ///< in one directory

struct Child {
  ext2_ino_t inode;
  std::string name;
};

struct Listing {
  std::vector<Child> children;
  std::exception_ptr failure;
};

int list_child(ext2_ino_t, int, ext2_dir_entry* entry, int, int, char*, void* user) noexcept {
  auto* listing = static_cast<Listing*>(user);
  try {
    if (entry->inode == 0) return 0;
    const std::string_view name(entry->name, static_cast<std::size_t>(ext2fs_dirent_name_len(entry)));
    if (name == "." || name == "..") return 0;
    if (!wire::is_name(name)) throw CaptureError("a name that no file can have");
    if (listing->children.size() == most_names) throw CaptureError("more names than a directory can have");
    listing->children.push_back({entry->inode, std::string(name)});
    return 0;
  } catch (...) {
    listing->failure = std::current_exception();
    return DIRENT_ABORT;
  }
}

class Walk {
 public:
  Walk(Parent& parent, ext2_filsys fs, std::uint64_t offset) : parent_(parent), fs_(fs), offset_(offset) {}

  void run(std::string_view path, bool recursive);

 private:
  struct Level {
    std::vector<Child> children;
    std::size_t next = 0;
  };

  [[nodiscard]] ext2_ino_t find(std::string_view path);
  std::vector<Child> list(ext2_ino_t directory);
  bool send(ext2_ino_t number, std::uint32_t depth, const std::string& name);
  void warn(std::string_view text);
  void flush();
  [[nodiscard]] std::string place() const;

  Parent& parent_;
  ext2_filsys fs_;
  std::uint64_t offset_;
  wire::Writer entries_{wire::Type::entries};
  std::unordered_set<ext2_ino_t> directories_;  ///< met so far: none may be met twice
  std::vector<std::string> names_;              ///< of the directories that are being walked
  TreeEntry entry_;
};

std::string Walk::place() const {
  std::string text;
  for (const std::string& name : names_)
    text += "/" + name;
  if (text.size() > 1000) text = "..." + text.substr(text.size() - 1000);
  return text.empty() ? "/" : text;
}

void Walk::flush() {
  if (entries_.payload_size() == 0) return;
  parent_.send(entries_.finish());
  entries_.restart();
}

void Walk::warn(std::string_view text) {
  wire::Writer warning(wire::Type::warning);
  warning.string(text.substr(0, wire::max_text));
  parent_.send(warning.finish());
}

std::vector<Child> Walk::list(ext2_ino_t directory) {
  Listing listing;
  const errcode_t error = ext2fs_dir_iterate2(fs_, directory, 0, nullptr, list_child, &listing);
  if (listing.failure) std::rethrow_exception(listing.failure);
  check_ext(error, "cannot read a directory");
  auto& children = listing.children;
  std::sort(children.begin(), children.end(),
            [](const Child& a, const Child& b) { return a.inode != b.inode ? a.inode < b.inode : a.name < b.name; });
  return std::move(children);
}

ext2_ino_t Walk::find(std::string_view path) {
  ext2_ino_t at = EXT2_ROOT_INO;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (!ExtInode(fs_, at).is_directory()) throw NotFound(fmt::format("{} is not a directory", place()));
    const std::vector<Child> children = list(at);
    const auto child =
        std::find_if(children.begin(), children.end(), [&name](const Child& c) { return c.name == name; });
    if (child == children.end()) throw NotFound(fmt::format("{} has no \"{}\"", place(), name));
    names_.emplace_back(name);
    at = child->inode;
  }
  return at;
}

/// Whether its children are to be walked too.
bool Walk::send(ext2_ino_t number, std::uint32_t depth, const std::string& name) {
  ExtInode inode(fs_, number);
  if (inode.is_encrypted() && !inode.is_directory()) {
    warn(fmt::format("{}/{}: encrypted, left out", depth == 0 ? "" : place(), name));
    return false;
  }
  inode.describe(offset_, entry_);
  wire::write_entry(entries_, depth, depth == 0 ? std::string_view() : name, entry_);
  if (entries_.payload_size() >= wire::batch_bytes) flush();
  if (!inode.is_directory()) return false;
  if (!directories_.insert(number).second) throw CaptureError("a directory with two names");
  if (inode.is_encrypted()) warn(fmt::format("{}/{}: encrypted, its content is left out", place(), name));
  return !inode.is_encrypted();
}

void Walk::run(std::string_view path, bool recursive) {
  std::string name;  // of what is being read, for the message
  try {
    const ext2_ino_t start = find(path);
    std::vector<Level> levels;
    if (send(start, 0, name)) levels.push_back({list(start), 0});
    const std::size_t above = names_.size();
    while (!levels.empty()) {
      Level& level = levels.back();
      if (level.next == level.children.size()) {
        levels.pop_back();
        if (names_.size() > above) names_.pop_back();
        name.clear();
        continue;
      }
      const Child child = std::move(level.children[level.next++]);
      name = child.name;
      const bool descend = send(child.inode, static_cast<std::uint32_t>(levels.size()), name) && recursive;
      if (!descend) continue;
      if (levels.size() == wire::max_depth) throw CaptureError("directories too deep in each other");
      names_.push_back(name);
      name.clear();
      levels.push_back({list(child.inode), 0});
    }
    flush();
  } catch (const CaptureError& error) {
    const std::string where = place();
    throw CaptureError(fmt::format("{}{}{}: {}", where, name.empty() || where == "/" ? "" : "/", name, error.what()));
  }
}

}  // namespace

void walk_ext(BlockService& blocks, Parent& parent, std::uint64_t offset, std::uint64_t length, std::string_view path,
              bool recursive) {
  const ExtFileSystem fs = open_ext(blocks, offset, length);
  Walk(parent, fs.get(), offset).run(path, recursive);
}

}  // namespace stillpoint
