// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/mount-node.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

namespace stillpoint {

namespace {

constexpr std::uint64_t stat_block = 512;
/// A disk's holes are counted exactly so far, and guessed beyond: the count is one for people and for cp.
constexpr std::uint64_t counted_bytes = std::uint64_t{1} << 40;

std::uint64_t blocks_of(std::uint64_t bytes) {
  return bytes / stat_block + (bytes % stat_block != 0 ? 1 : 0);
}

class TextContent : public MountedFile {
 public:
  explicit TextContent(std::shared_ptr<const std::string> text) : text_(std::move(text)) {}
  [[nodiscard]] std::uint64_t size() const override { return text_->size(); }
  void read(std::span<std::byte> buffer, std::uint64_t offset) override {
    std::memcpy(buffer.data(), text_->data() + offset, buffer.size());
  }
  [[nodiscard]] std::uint64_t next(std::uint64_t offset, bool data) override { return data ? offset : size(); }

 private:
  std::shared_ptr<const std::string> text_;
};

class BlockContent : public MountedFile {
 public:
  BlockContent(std::string label, std::uint64_t size, BlockFile::Open open)
      : label_(std::move(label)), size_(size), open_(std::move(open)) {}
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void read(std::span<std::byte> buffer, std::uint64_t offset) override {
    try {
      open_()->pread(buffer, offset);
    } catch (const Corruption& error) {
      throw Corruption(fmt::format("{}: {}", label_, error.what()));
    }
  }
  [[nodiscard]] std::uint64_t next(std::uint64_t offset, bool data) override {
    const std::shared_ptr<BlockReader> blocks = open_();
    while (offset < size_)
      for (const Extent& extent : blocks->extents(offset, size_ - offset)) {
        if (extent.data == data) return extent.offset;
        offset = extent.offset + extent.length;
      }
    return size_;
  }

 private:
  std::string label_;
  std::uint64_t size_;
  BlockFile::Open open_;
};

}  // namespace

std::uint64_t new_node_number() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

MountNode::Shared MountNode::child(std::string_view /*name*/) {
  return nullptr;
}

void MountNode::list(std::size_t /*from*/, const Consumer& /*consumer*/) {}

std::shared_ptr<MountedFile> MountNode::open() {
  throw CaptureError("it is not a file");
}

std::string MountNode::target() {
  throw CaptureError("it is not a symbolic link");
}

OwnNode::OwnNode(EntryType type, std::uint32_t mode, std::int64_t mtime_ns) {
  attributes_ = {.type = type, .mode = mode, .uid = ::getuid(), .gid = ::getgid(), .links = 1};
  attributes_.inode = number_;
  attributes_.mtime_ns = mtime_ns;
}

NodeAttributes OwnNode::attributes() {
  return attributes_;
}

void OwnDirectory::add(std::string name, Shared node) {
  const Brief brief = node->brief();
  entries_.push_back({std::move(name), brief, std::move(node), {}});
}

void OwnDirectory::add_deferred(std::string name, std::function<Shared()> find) {
  entries_.push_back({std::move(name), {EntryType::directory, new_node_number()}, nullptr, std::move(find)});
}

OwnDirectory::Entry* OwnDirectory::entry(std::string_view name) {
  const auto found = std::ranges::find_if(entries_, [&](const Entry& e) { return e.name == name; });
  return found == entries_.end() ? nullptr : &*found;
}

OwnDirectory& OwnDirectory::directory(std::string_view name, std::int64_t mtime_ns) {
  if (const Entry* there = entry(name))
    if (auto* directory = dynamic_cast<OwnDirectory*>(there->node.get())) return *directory;
  auto made = std::make_shared<OwnDirectory>(mtime_ns);
  OwnDirectory& directory = *made;
  add(std::string(name), std::move(made));
  return directory;
}

MountNode::Shared OwnDirectory::child(std::string_view name) {
  const Entry* there = entry(name);
  if (there == nullptr) return nullptr;
  return there->node ? there->node : there->find();
}

void OwnDirectory::list(std::size_t from, const Consumer& consumer) {
  for (std::size_t i = from; i < entries_.size(); ++i)
    if (!consumer(entries_[i].name, entries_[i].brief, i + 1)) return;
}

TextFile::TextFile(std::string text, std::int64_t mtime_ns)
    : OwnNode(EntryType::file, 0400, mtime_ns), text_(std::make_shared<const std::string>(std::move(text))) {}

NodeAttributes TextFile::attributes() {
  NodeAttributes attributes = OwnNode::attributes();
  attributes.size = text_->size();
  attributes.blocks = blocks_of(attributes.size);
  return attributes;
}

std::shared_ptr<MountedFile> TextFile::open() {
  return std::make_shared<TextContent>(text_);
}

NodeAttributes OwnLink::attributes() {
  NodeAttributes attributes = OwnNode::attributes();
  attributes.size = target_.size();
  return attributes;
}

BlockFile::BlockFile(std::string label, std::uint64_t size, bool sparse, std::int64_t mtime_ns, Open open)
    : OwnNode(EntryType::file, 0400, mtime_ns),
      label_(std::move(label)),
      size_(size),
      sparse_(sparse),
      open_(std::move(open)) {}

std::uint64_t BlockFile::count_blocks() noexcept {
  if (!sparse_) return blocks_of(size_);
  try {
    const std::shared_ptr<BlockReader> blocks = open_();
    std::uint64_t at = 0;
    std::uint64_t data = 0;
    while (at < std::min(size_, counted_bytes))
      for (const Extent& extent : blocks->extents(at, size_ - at)) {
        if (extent.data) data += extent.length;
        at = extent.offset + extent.length;
      }
    if (at > 0 && at < size_)
      data =
          static_cast<std::uint64_t>(static_cast<double>(data) / static_cast<double>(at) * static_cast<double>(size_));
    return blocks_of(std::min(data, size_));
  } catch (const std::exception&) {
    return blocks_of(size_);  // where it is damaged, it can still be read elsewhere
  }
}

NodeAttributes BlockFile::attributes() {
  NodeAttributes attributes = OwnNode::attributes();
  attributes.size = size_;
  const std::scoped_lock lock(mutex_);
  if (!blocks_) blocks_ = count_blocks();
  attributes.blocks = *blocks_;
  return attributes;
}

std::shared_ptr<MountedFile> BlockFile::open() {
  return std::make_shared<BlockContent>(label_, size_, open_);
}

}  // namespace stillpoint
