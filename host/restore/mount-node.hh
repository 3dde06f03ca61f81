// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stillpoint {

/// What stat(2) says of something that is shown in a mount.
struct NodeAttributes {
  EntryType type = EntryType::directory;
  std::uint32_t mode = 0555;  ///< permission bits (07777)
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t links = 1;
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::uint64_t size = 0;     ///< bytes
  std::uint64_t blocks = 0;   ///< of 512 bytes
  std::uint64_t inode = 0;    ///< shown; the same for all names of a hard-link group
  std::int64_t mtime_ns = 0;  ///< nanoseconds since the epoch
};

/// The content of a file that was opened. May be used by several threads.
class MountedFile {
 public:
  virtual ~MountedFile() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  /// Fills the buffer; the range lies inside the file. Throws CaptureError, Corruption.
  virtual void read(std::span<std::byte> buffer, std::uint64_t offset) = 0;
  /// From `offset`, which lies inside: where the next data, or the next hole, begins; size() for neither.
  [[nodiscard]] virtual std::uint64_t next(std::uint64_t offset, bool data) = 0;
};

/// Something that is shown in a mount, and never changes unless `lasting` says so. May be used by several threads;
/// everything may throw NotFound, CaptureError, Corruption.
class MountNode {
 public:
  using Shared = std::shared_ptr<MountNode>;
  /// Equal for two nodes that are the same thing.
  struct Identity {
    std::uint64_t place;
    std::uint64_t number;
    bool operator==(const Identity&) const = default;
  };
  using Xattrs = std::vector<std::pair<std::string, std::string>>;
  struct Brief {
    EntryType type;
    std::uint64_t inode;
  };
  /// One entry of a directory: its name, what it is, and the number of the entry after it. False: no more.
  using Consumer = std::function<bool(const std::string&, const Brief&, std::size_t)>;

  MountNode() = default;
  MountNode(const MountNode&) = delete;
  MountNode& operator=(const MountNode&) = delete;
  virtual ~MountNode() = default;

  [[nodiscard]] virtual Identity identity() const = 0;
  [[nodiscard]] virtual NodeAttributes attributes() = 0;
  [[nodiscard]] virtual Brief brief() {
    const NodeAttributes known = attributes();
    return {known.type, known.inode};
  }
  /// False where names come and go.
  [[nodiscard]] virtual bool lasting() const { return true; }

  /// Directories only: null when there is none of that name.
  [[nodiscard]] virtual Shared child(std::string_view name);
  /// Directories only: entries from number `from` on, in an order that stays.
  virtual void list(std::size_t from, const Consumer& consumer);
  /// Files only.
  [[nodiscard]] virtual std::shared_ptr<MountedFile> open();
  /// Symbolic links only.
  [[nodiscard]] virtual std::string target();
  [[nodiscard]] virtual Xattrs xattrs() { return {}; }
};

/// A number that no other node of this process has.
[[nodiscard]] std::uint64_t new_node_number();

/// What is made by us, not by a guest: it belongs to whoever has mounted.
class OwnNode : public MountNode {
 public:
  [[nodiscard]] Identity identity() const override { return {0, number_}; }
  [[nodiscard]] NodeAttributes attributes() override;
  [[nodiscard]] Brief brief() override { return {attributes_.type, number_}; }

 protected:
  OwnNode(EntryType type, std::uint32_t mode, std::int64_t mtime_ns);

 private:
  std::uint64_t number_ = new_node_number();
  NodeAttributes attributes_;
};

/// A directory with what was put into it before it was shown.
class OwnDirectory : public OwnNode {
 public:
  explicit OwnDirectory(std::int64_t mtime_ns) : OwnNode(EntryType::directory, 0555, mtime_ns) {}
  void add(std::string name, Shared node);
  /// A directory that costs something to find: it is found when it is looked at.
  void add_deferred(std::string name, std::function<Shared()> find);
  /// The directory of that name, made where there is none.
  OwnDirectory& directory(std::string_view name, std::int64_t mtime_ns);

  [[nodiscard]] Shared child(std::string_view name) override;
  void list(std::size_t from, const Consumer& consumer) override;

 private:
  struct Entry {
    std::string name;
    Brief brief;
    Shared node;  ///< null for a deferred one
    std::function<Shared()> find;
  };
  [[nodiscard]] Entry* entry(std::string_view name);
  std::vector<Entry> entries_;
};

/// A small file that is made here.
class TextFile : public OwnNode {
 public:
  TextFile(std::string text, std::int64_t mtime_ns);
  [[nodiscard]] NodeAttributes attributes() override;
  [[nodiscard]] std::shared_ptr<MountedFile> open() override;

 private:
  std::shared_ptr<const std::string> text_;
};

class OwnLink : public OwnNode {
 public:
  OwnLink(std::string target, std::int64_t mtime_ns)
      : OwnNode(EntryType::symlink, 0777, mtime_ns), target_(std::move(target)) {}
  [[nodiscard]] NodeAttributes attributes() override;
  [[nodiscard]] std::string target() override { return target_; }

 private:
  std::string target_;
};

/// A disk, a dump or a file of a domain's state, out of the repository.
class BlockFile : public OwnNode {
 public:
  using Open = std::function<std::shared_ptr<BlockReader>()>;
  /// `label`: for messages. `open`: called for each read; whoever gives it keeps what is worth it.
  BlockFile(std::string label, std::uint64_t size, bool sparse, std::int64_t mtime_ns, Open open);
  [[nodiscard]] NodeAttributes attributes() override;
  [[nodiscard]] std::shared_ptr<MountedFile> open() override;

 private:
  [[nodiscard]] std::uint64_t count_blocks() noexcept;

  std::string label_;
  std::uint64_t size_;
  bool sparse_;
  Open open_;
  std::mutex mutex_;
  std::optional<std::uint64_t> blocks_;  ///< counted when first asked for
};

}  // namespace stillpoint
