// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/guest-tree.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

namespace stillpoint {

namespace {

/// Bytes of memory: of the details of one file that are kept with a listing, of all of them, and of a listing itself.
constexpr std::size_t most_kept_details = 2048;
constexpr std::size_t most_details_of_listing = std::size_t{64} << 20;
constexpr std::size_t most_of_listing = std::size_t{256} << 20;
/// What an open file holds on to.
constexpr std::size_t most_held_details = 64 << 10;
/// A directory that cannot be read is not read again at once: a hostile one takes its time.
constexpr std::chrono::seconds failure_lasts{60};
/// No file system numbers its inodes beyond this.
constexpr std::uint64_t inode_mask = (std::uint64_t{1} << 62) - 1;

std::string last_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

NodeAttributes attributes_of(const TreeEntry& entry, std::uint64_t first_inode) {
  NodeAttributes attributes{.type = entry.type,
                            .mode = entry.mode,
                            .uid = entry.uid,
                            .gid = entry.gid,
                            .links = entry.links,
                            .device_major = entry.device_major,
                            .device_minor = entry.device_minor,
                            .size = entry.size,
                            .inode = first_inode + (entry.inode & inode_mask),
                            .mtime_ns = entry.mtime_ns};
  std::uint64_t allocated = 0;
  for (const TreeEntry::FileExtent& extent : entry.extents)
    allocated += extent.length;
  attributes.blocks = allocated / 512;
  if (entry.type == EntryType::symlink) attributes.size = entry.target.size();
  if (entry.type == EntryType::directory) attributes.size = 4096;
  return attributes;
}

std::shared_ptr<const FileDetails> details_of(const TreeEntry& entry) {
  static const auto none = std::make_shared<const FileDetails>();
  if (entry.target.empty() && entry.inline_content.empty() && entry.xattrs.empty() && entry.extents.empty())
    return none;
  return std::make_shared<const FileDetails>(
      FileDetails{entry.target, entry.inline_content, entry.xattrs, entry.extents});
}

class ListingSink : public TreeSink {
 public:
  ListingSink(DirectoryListing& listing, std::uint64_t first_inode, std::string directory)
      : listing_(listing), first_inode_(first_inode), directory_(std::move(directory)) {}

  void entry(const TreeEntry& entry) override {
    if (entry.path == directory_) return;
    auto details = details_of(entry);
    const std::size_t size = details->bytes();
    if (size > most_kept_details || details_ + size > most_details_of_listing)
      details.reset();
    else
      details_ += size;
    listing_.entries.push_back(
        {last_name(entry.path), entry.inode, attributes_of(entry, first_inode_), std::move(details)});
    names_ += listing_.entries.back().name.size();
    if (names_ + listing_.entries.size() * sizeof(DirectoryListing::Entry) > most_of_listing)
      throw CaptureError("a directory with more names than can be shown");
  }

 private:
  DirectoryListing& listing_;
  std::uint64_t first_inode_;
  std::string directory_;
  std::size_t details_ = 0;
  std::size_t names_ = 0;
};

}  // namespace

std::size_t FileDetails::bytes() const noexcept {
  std::size_t bytes = target.size() + inline_content.size() + extents.size() * sizeof extents[0];
  for (const auto& [name, value] : xattrs)
    bytes += sizeof xattrs[0] + name.size() + value.size();
  return bytes == 0 ? 0 : bytes + sizeof *this;
}

const DirectoryListing::Entry* DirectoryListing::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(
      by_name, name, {}, [this](std::uint32_t place) { return std::string_view(entries[place].name); });
  return found != by_name.end() && entries[*found].name == name ? &entries[*found] : nullptr;
}

std::size_t DirectoryListing::bytes() const noexcept {
  std::size_t bytes = sizeof *this + failure.size();
  for (const Entry& entry : entries)
    bytes += sizeof entry + sizeof by_name[0] + entry.name.size() + (entry.details ? entry.details->bytes() : 0);
  return bytes;
}

BrowsedFileSystem::BrowsedFileSystem(std::string label, std::uint64_t first_inode, OpenDisk disk, std::size_t place,
                                     GuestTreeCache& cache)
    : label_(std::move(label)), first_inode_(first_inode), disk_(std::move(disk)), place_(place), cache_(cache) {}

std::shared_ptr<DirectoryListing> BrowsedFileSystem::read_listing(const std::string& path) {
  auto listing = std::make_shared<DirectoryListing>();
  ListingSink sink(*listing, first_inode_, path);
  try {
    disk_()->list(place_, path, sink);
  } catch (const CaptureError& error) {
    listing->failure = fmt::format("{}: {}", label_, error.what());
  } catch (const Corruption& error) {
    throw Corruption(fmt::format("{}: /{}: {}", label_, path, error.what()));
  }
  listing->entries.shrink_to_fit();
  listing->by_name.resize(listing->entries.size());
  std::iota(listing->by_name.begin(), listing->by_name.end(), 0U);
  std::ranges::sort(listing->by_name, {},
                    [&](std::uint32_t place) -> const std::string& { return listing->entries[place].name; });
  listing->made = std::chrono::steady_clock::now();
  return listing;
}

std::shared_ptr<const DirectoryListing> BrowsedFileSystem::list(std::uint64_t number, const std::string& path) {
  const InodeKey key{id_, number};
  for (;;) {
    auto listing = cache_.listings.get(key, [&] {
      auto made = read_listing(path);
      const std::size_t bytes = made->bytes();
      return decltype(cache_.listings)::Made{std::move(made), bytes};
    });
    if (listing->failure.empty() || std::chrono::steady_clock::now() - listing->made < failure_lasts) return listing;
    cache_.listings.forget(key, listing);
  }
}

std::optional<DirectoryListing::Entry> BrowsedFileSystem::look(const std::string& path) {
  try {
    const std::optional<TreeEntry> entry = disk_()->look(place_, path);
    if (!entry) return std::nullopt;
    return DirectoryListing::Entry{last_name(path), entry->inode, attributes_of(*entry, first_inode_),
                                   details_of(*entry)};
  } catch (const CaptureError& error) {
    throw CaptureError(fmt::format("{}: {}", label_, error.what()));
  } catch (const Corruption& error) {
    throw Corruption(fmt::format("{}: /{}: {}", label_, path, error.what()));
  }
}

std::shared_ptr<const FileDetails> BrowsedFileSystem::details(std::uint64_t number, std::uint64_t parent,
                                                              std::string_view name,
                                                              const std::function<std::string()>& path) {
  if (const auto listing = cache_.listings.find({id_, parent}))
    if (const DirectoryListing::Entry* entry = listing->find(name); entry != nullptr && entry->number == number)
      if (entry->details) return entry->details;
  return cache_.details.get({id_, number}, [&] {
    std::optional<DirectoryListing::Entry> entry = look(path());
    if (!entry) throw NotFound("it is there no more");
    const std::size_t bytes = entry->details->bytes() + 256;
    return decltype(cache_.details)::Made{std::move(entry->details), bytes};
  });
}

void BrowsedFileSystem::read(std::span<std::byte> buffer, std::uint64_t disk_offset,
                             const std::function<std::string()>& path) {
  try {
    BlockReader& blocks = disk_()->blocks();
    if (disk_offset > blocks.size() || buffer.size() > blocks.size() - disk_offset)
      throw Corruption("its content lies outside the disk");
    blocks.pread(buffer, disk_offset);
  } catch (const Corruption& error) {
    throw Corruption(fmt::format("{}: /{}: {}", label_, path(), error.what()));
  }
}

/// A file system at its place in the tree.
struct GuestTree::View {
  View(GuestTree& its_tree, BrowsedFileSystem& what, std::string where)
      : tree(its_tree), file_system(what), path(std::move(where)) {}
  [[nodiscard]] MountNode::Shared root();

  GuestTree& tree;
  BrowsedFileSystem& file_system;
  std::string path;  ///< "" or "/var"
  std::uint64_t id = new_node_number();
};

/// Something in a guest's file system.
class GuestNode : public MountNode, public std::enable_shared_from_this<GuestNode> {
 public:
  GuestNode(GuestTree::View& view, std::shared_ptr<GuestNode> parent, std::string name, std::uint64_t number,
            const NodeAttributes& attributes)
      : view_(view), parent_(std::move(parent)), name_(std::move(name)), number_(number), attributes_(attributes) {}
  GuestNode(const GuestNode&) = delete;
  GuestNode& operator=(const GuestNode&) = delete;
  /// One after the other: thousands of directories in each other would be as many calls.
  ~GuestNode() override {
    for (std::shared_ptr<GuestNode> up = std::move(parent_); up && up.use_count() == 1;) {
      std::shared_ptr<GuestNode> next = std::move(up->parent_);
      up = std::move(next);
    }
  }

  [[nodiscard]] Identity identity() const override { return {view_.id, number_}; }
  [[nodiscard]] NodeAttributes attributes() override { return attributes_; }
  [[nodiscard]] Shared child(std::string_view name) override;
  void list(std::size_t from, const Consumer& consumer) override;
  [[nodiscard]] std::shared_ptr<MountedFile> open() override;
  [[nodiscard]] std::string target() override { return details()->target; }
  [[nodiscard]] Xattrs xattrs() override { return details()->xattrs; }

  [[nodiscard]] std::shared_ptr<const FileDetails> details() {
    return view_.file_system.details(number_, parent_ ? parent_->number_ : number_, name_, [this] { return path(); });
  }
  void read_disk(std::span<std::byte> buffer, std::uint64_t offset) {
    view_.file_system.read(buffer, offset, [this] { return path(); });
  }

 private:
  [[nodiscard]] std::string path() const;
  [[nodiscard]] std::string path_in_tree() const {
    const std::string inner = path();
    return inner.empty() ? view_.path : view_.path + "/" + inner;
  }
  [[nodiscard]] Shared own_child(std::string_view name);

  GuestTree::View& view_;
  std::shared_ptr<GuestNode> parent_;  ///< null for the file system's root
  std::string name_;
  std::uint64_t number_;
  NodeAttributes attributes_;
};

namespace {

/// A guest's file that is open.
class GuestContent : public MountedFile {
 public:
  GuestContent(std::shared_ptr<GuestNode> node, std::uint64_t size) : node_(std::move(node)), size_(size) {
    auto details = node_->details();
    if (details->bytes() <= most_held_details) held_ = std::move(details);
  }
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void read(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] std::uint64_t next(std::uint64_t offset, bool data) override;

 private:
  using Extents = std::vector<TreeEntry::FileExtent>;
  [[nodiscard]] std::shared_ptr<const FileDetails> details() const { return held_ ? held_ : node_->details(); }
  /// The first extent that ends behind that place.
  [[nodiscard]] static Extents::const_iterator extent_at(const Extents& extents, std::uint64_t offset) {
    return std::ranges::upper_bound(extents, offset, {}, [](const auto& e) { return e.file_offset + e.length; });
  }

  std::shared_ptr<GuestNode> node_;
  std::uint64_t size_;
  std::shared_ptr<const FileDetails> held_;  ///< null where they are large: the cache may have them
};

void GuestContent::read(std::span<std::byte> buffer, std::uint64_t offset) {
  const auto details = this->details();
  std::memset(buffer.data(), 0, buffer.size());
  if (const std::string& text = details->inline_content; offset < text.size())
    std::memcpy(buffer.data(), text.data() + offset, std::min(buffer.size(), text.size() - offset));
  const std::uint64_t end = offset + buffer.size();
  for (auto extent = extent_at(details->extents, offset); extent != details->extents.end() && extent->file_offset < end;
       ++extent) {
    const std::uint64_t from = std::max(offset, extent->file_offset);
    const std::uint64_t to = std::min(end, extent->file_offset + extent->length);
    node_->read_disk(buffer.subspan(from - offset, to - from), extent->disk_offset + (from - extent->file_offset));
  }
}

std::uint64_t GuestContent::next(std::uint64_t offset, bool data) {
  const auto details = this->details();
  if (!details->inline_content.empty()) return data ? offset : size_;
  for (auto extent = extent_at(details->extents, offset); extent != details->extents.end(); ++extent) {
    const bool inside = extent->file_offset <= offset;
    if (data) return std::min(size_, std::max(offset, extent->file_offset));
    if (!inside) return offset;
    offset = extent->file_offset + extent->length;
  }
  return data ? size_ : std::min(offset, size_);
}

}  // namespace

std::string GuestNode::path() const {
  std::vector<const std::string*> names;
  std::size_t length = 0;
  for (const GuestNode* node = this; node->parent_; node = node->parent_.get()) {
    names.push_back(&node->name_);
    length += node->name_.size() + 1;
  }
  std::string path;
  path.reserve(length);
  for (auto name = names.rbegin(); name != names.rend(); ++name)
    path += (path.empty() ? "" : "/") + **name;
  return path;
}

MountNode::Shared GuestNode::own_child(std::string_view name) {
  const std::string inner = path();
  const auto listing = view_.file_system.list(number_, inner);
  const auto made = [&](const DirectoryListing::Entry& entry) {
    return std::make_shared<GuestNode>(view_, shared_from_this(), entry.name, entry.number, entry.attributes);
  };
  if (const DirectoryListing::Entry* entry = listing->find(name)) return made(*entry);
  if (listing->failure.empty()) return nullptr;
  const auto entry = view_.file_system.look((inner.empty() ? "" : inner + "/") + std::string(name));
  return entry ? made(*entry) : nullptr;
}

MountNode::Shared GuestNode::child(std::string_view name) {
  if (attributes_.type != EntryType::directory) return nullptr;
  if (view_.tree.names_.empty()) return own_child(name);
  const std::string in_tree = path_in_tree() + "/" + std::string(name);
  if (GuestTree::View* mounted = view_.tree.mounted_at(in_tree)) return mounted->root();
  Shared leading = view_.tree.leading(in_tree);
  Shared own = own_child(name);
  return leading && (!own || own->brief().type != EntryType::directory) ? leading : own;
}

void GuestNode::list(std::size_t from, const Consumer& consumer) {
  const auto listing = view_.file_system.list(number_, path());
  const std::size_t count = listing->entries.size();
  for (std::size_t i = from; i < count; ++i) {
    const DirectoryListing::Entry& entry = listing->entries[i];
    if (!consumer(entry.name, {entry.attributes.type, entry.attributes.inode}, i + 1)) return;
  }
  if (!view_.tree.names_.empty()) {
    const std::vector<std::string>& names = view_.tree.names_in(path_in_tree());
    for (std::size_t i = std::max(from, count) - count; i < names.size(); ++i)
      if (listing->find(names[i]) == nullptr &&
          !consumer(names[i], {EntryType::directory, new_node_number()}, count + i + 1))
        return;
  }
  if (!listing->failure.empty()) throw CaptureError(listing->failure);
}

std::shared_ptr<MountedFile> GuestNode::open() {
  if (attributes_.type != EntryType::file) return MountNode::open();
  return std::make_shared<GuestContent>(shared_from_this(), attributes_.size);
}

MountNode::Shared GuestTree::View::root() {
  const auto entry = file_system.look("");
  if (!entry) throw NotFound("the file system has no root");
  return std::make_shared<GuestNode>(*this, nullptr, std::string(), entry->number, entry->attributes);
}

GuestTree::GuestTree(std::int64_t mtime_ns) : mtime_ns_(mtime_ns) {}

GuestTree::~GuestTree() = default;

bool GuestTree::mount(std::string_view path, BrowsedFileSystem& file_system) {
  if (!path.starts_with('/') || path.find('\0') != std::string_view::npos) return false;
  std::string clean;
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view name = path.substr(0, path.find('/'));
    if (name == "." || name == ".." || name.size() > 255) return false;
    if (!name.empty()) clean += "/" + std::string(name);
    path.remove_prefix(name.size());
  }
  if (views_.contains(clean)) return false;
  views_.emplace(clean, std::make_unique<View>(*this, file_system, clean));
  return true;
}

void GuestTree::finish() {
  leading_.try_emplace("", std::make_shared<OwnDirectory>(mtime_ns_));
  for (const auto& [path, view] : views_) {
    for (std::string below = path; !below.empty();) {
      const std::size_t slash = below.rfind('/');
      const std::string name = below.substr(slash + 1);
      below.resize(slash);
      leading_.try_emplace(below, std::make_shared<OwnDirectory>(mtime_ns_));
      std::vector<std::string>& names = names_[below];
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  for (const auto& [path, names] : names_)
    for (const std::string& name : names) {
      View* view = mounted_at(path + "/" + name);
      if (view != nullptr)
        leading_.at(path)->add_deferred(name, [view] { return view->root(); });
      else
        leading_.at(path)->add(name, leading_.at(path + "/" + name));
    }
}

GuestTree::View* GuestTree::mounted_at(const std::string& path) const {
  const auto found = views_.find(path);
  return found == views_.end() ? nullptr : found->second.get();
}

MountNode::Shared GuestTree::leading(const std::string& path) const {
  const auto found = leading_.find(path);
  return found == leading_.end() ? nullptr : found->second;
}

const std::vector<std::string>& GuestTree::names_in(const std::string& path) const {
  static const std::vector<std::string> none;
  const auto found = names_.find(path);
  return found == names_.end() ? none : found->second;
}

MountNode::Shared GuestTree::root() {
  View* view = mounted_at("");
  return view != nullptr ? view->root() : leading_.at("");
}

}  // namespace stillpoint
