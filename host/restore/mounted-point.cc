// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/mounted-point.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"
#include "host/capture/volume-groups.hh"
#include "host/repository/ahead-reader.hh"

#include <fmt/format.h>
#include <glib.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <set>
#include <span>
#include <utility>

namespace stillpoint {

namespace {

/// A stream is read in pieces of so many bytes, and so many of it are kept.
constexpr std::uint32_t dump_piece_bytes = 1 << 20;
constexpr std::size_t dump_cache_bytes = 16 << 20;
/// How old what is shown of a repository may be.
constexpr std::chrono::seconds listing_lasts{1};

std::int64_t nanoseconds_of(WallTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

/// Where a file system's inode numbers begin in what is shown: the same in every mount, far from all others, and above
/// our own.
std::uint64_t first_inode(const std::string& still_point_id, const std::string& file_system) {
  const std::string text = still_point_id + "/" + file_system;
  const CPtr<char, g_free> digest(::g_compute_checksum_for_string(G_CHECKSUM_SHA256, text.c_str(), -1));
  return std::uint64_t{1} << 63 | std::stoull(std::string(digest.get(), 16), nullptr, 16) >> 2;
}

/// What the engines' dumps are: the plug-ins' own are not SQL.
std::string dump_file_name(const std::string& name) {
  const bool is_sql = name.starts_with("postgresql/") || name.starts_with("mariadb/") || name.starts_with("mysql/");
  return is_sql ? name + ".sql" : name;
}

/// A disk that is opened while it is read: what is open stays bounded.
class CachedDisk : public BlockReader {
 public:
  using Open = std::function<std::shared_ptr<GuestDisk>()>;
  using Part = BlockReader& (GuestDisk::*)();
  CachedDisk(std::uint64_t size, Open open, Part part) : size_(size), open_(std::move(open)), part_(part) {}

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    const std::shared_ptr<GuestDisk> disk = open_();
    ((*disk).*part_)().pread(buffer, offset);
  }
  void pread_many(std::span<const Request> requests) override {
    const std::shared_ptr<GuestDisk> disk = open_();
    ((*disk).*part_)().pread_many(requests);
  }
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    const std::shared_ptr<GuestDisk> disk = open_();
    return ((*disk).*part_)().extents(offset, length);
  }

 private:
  std::uint64_t size_;
  Open open_;
  Part part_;
};

}  // namespace

struct MountedPoint::Found {
  explicit Found(std::int64_t instant_ns) : tree(instant_ns), list(std::make_shared<OwnDirectory>(instant_ns)) {}
  std::vector<std::unique_ptr<BrowsedFileSystem>> file_systems;
  GuestTree tree;
  std::vector<std::unique_ptr<GuestTree>> single;
  std::shared_ptr<OwnDirectory> list;
  bool any_mounted = false;
  std::set<std::string> names;     ///< of file systems on disks
  std::vector<DiskPart> physical;  ///< volumes of LVM
};

MountedPoint::MountedPoint(MountShared& shared, Manifest manifest)
    : shared_(shared),
      manifest_(std::move(manifest)),
      instant_ns_(nanoseconds_of(manifest_.instant)),
      root_(std::make_shared<OwnDirectory>(instant_ns_)) {
  std::ranges::generate_n(std::back_inserter(disk_keys_), static_cast<std::ptrdiff_t>(manifest_.disks.size()),
                          new_node_number);
  for (std::size_t i = 0; i < manifest_.disks.size(); ++i) {
    const auto open = [this, i] { return open_disk(i); };
    blocks_.push_back(std::make_unique<CachedDisk>(manifest_.disks[i].map.size, open, &GuestDisk::blocks));
    structures_.push_back(std::make_unique<CachedDisk>(manifest_.disks[i].map.size, open, &GuestDisk::structures));
  }
  add_disks(root_->directory("disks", instant_ns_));
  add_dumps(root_->directory("dumps", instant_ns_));
  add_state();
  root_->add_deferred("file-systems", [this] { return found().list; });
  root_->add_deferred("files", [this] { return found().tree.root(); });
  root_->add("still-point.json", std::make_shared<TextFile>(dump_json(to_json(manifest_), 2) + '\n', instant_ns_));
}

MountedPoint::~MountedPoint() = default;

void MountedPoint::add_disks(OwnDirectory& directory) {
  for (std::size_t i = 0; i < manifest_.disks.size(); ++i) {
    const DiskRecord& disk = manifest_.disks[i];
    const auto open = [this, i] {
      const auto opened = open_disk(i);
      return std::shared_ptr<BlockReader>(opened, &opened->blocks());
    };
    directory.add(disk.target + ".img",
                  std::make_shared<BlockFile>(fmt::format("{} of {}", disk.target, manifest_.name), disk.map.size, true,
                                              instant_ns_, open));
  }
}

void MountedPoint::add_dumps(OwnDirectory& directory) {
  for (std::size_t i = 0; i < manifest_.dumps.size(); ++i) {
    const DumpRecord& dump = manifest_.dumps[i];
    if (!dump.failure.empty()) continue;
    OwnDirectory* parent = &directory;
    std::string name = dump_file_name(dump.name);
    for (std::size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/')) {
      parent = &parent->directory(name.substr(0, slash), instant_ns_);
      name.erase(0, slash + 1);
    }
    parent->add(name, stream_file("dump " + dump.name, dump.map));
  }
}

void MountedPoint::add_state() {
  for (const StateRecord& state : manifest_.state) {
    if (!state.failure.empty()) continue;
    OwnDirectory& directory = root_->directory("state", instant_ns_);
    const auto file = stream_file(fmt::format("{} {}", to_string(state.kind), state.name), state.map);
    if (state.kind == StateRecord::Kind::nvram)
      directory.add("nvram.fd", file);
    else
      directory.directory("tpm", instant_ns_).add(state.name, file);
  }
}

/// `map`: of the manifest.
std::shared_ptr<BlockFile> MountedPoint::stream_file(std::string_view what, const StreamMap& map) {
  const auto open = [this, &map, key = new_node_number()] {
    return shared_.dumps.get(key, [&] {
      return decltype(shared_.dumps)::Made{
          std::make_shared<AheadReader>(shared_.repository.open_dump(map), shared_.crew, dump_piece_bytes,
                                        dump_cache_bytes),
          1};
    });
  };
  return std::make_shared<BlockFile>(fmt::format("{} of {}", what, manifest_.name), map.size, false, instant_ns_, open);
}

std::shared_ptr<GuestDisk> MountedPoint::open_disk(std::size_t number) {
  return shared_.disks.get(disk_keys_[number], [&] {
    return decltype(shared_.disks)::Made{
        std::make_shared<GuestDisk>(shared_.repository, manifest_.disks[number].map, shared_.crew, shared_.stop), 1};
  });
}

std::shared_ptr<GuestDisk> MountedPoint::open_volume(std::size_t number) {
  const MountedVolume& volume = volumes_[number];
  return shared_.disks.get(volume.key, [&] {
    std::vector<DiskPart> parts = volume.parts;
    for (DiskPart& part : parts) {
      const auto same = [&part](const std::unique_ptr<BlockReader>& each) { return each.get() == part.disk; };
      part.disk =
          blocks_[static_cast<std::size_t>(std::ranges::find_if(structures_, same) - structures_.begin())].get();
    }
    return decltype(shared_.disks)::Made{
        std::make_shared<GuestDisk>(std::make_unique<AssembledDisk>(std::move(parts)),
                                    std::make_unique<AssembledDisk>(volume.parts), shared_.stop),
        1};
  });
}

void MountedPoint::warn(const std::string& what, const std::exception& error) const {
  log_warning("{}: {}: no files are shown of it: {}", manifest_.name, what, error.what());
}

/// `name`: the file system's; `shown`: as what, in the list.
void MountedPoint::show(Found& found, const std::string& name, const std::string& shown,
                        const BrowsedFileSystem::OpenDisk& open, std::size_t place) {
  found.file_systems.push_back(std::make_unique<BrowsedFileSystem>(
      fmt::format("{}: {}", manifest_.name, name), first_inode(manifest_.id, name), open, place, shared_.trees));
  BrowsedFileSystem& file_system = *found.file_systems.back();
  for (const TreeRecord& tree : manifest_.trees)
    if (tree.file_system == name && found.tree.mount(tree.mount_point, file_system)) found.any_mounted = true;
  found.single.push_back(std::make_unique<GuestTree>(instant_ns_));
  GuestTree& alone = *found.single.back();
  alone.mount("/", file_system);
  alone.finish();
  OwnDirectory* parent = found.list.get();
  const std::size_t slash = shown.find('/');
  if (slash != std::string::npos) parent = &parent->directory(shown.substr(0, slash), instant_ns_);
  parent->add_deferred(shown.substr(slash == std::string::npos ? 0 : slash + 1), [&alone] { return alone.root(); });
}

void MountedPoint::look_on_disk(Found& found, std::size_t number) {
  const std::vector<FileSystem> on_disk = open_disk(number)->file_systems();
  for (std::size_t place = 0; place < on_disk.size(); ++place) {
    const FileSystem& each = on_disk[place];
    if (each.type == "LVM2_member" && each.length > 0)
      found.physical.push_back({structures_[number].get(), each.offset, each.length});
    if (!each.readable()) continue;
    const std::string name = shared_.name_file_system(manifest_.disks[number].target, each.partition);
    found.names.insert(name);
    show(
        found, name, name, [this, number] { return open_disk(number); }, place);
  }
}

void MountedPoint::look_for_volumes(Found& found) {
  for (Volume& volume : find_volumes(found.physical)) {
    if (!volume.obstacle.empty()) {
      log_warning("{}: {}: no files are shown of it: {}", manifest_.name, volume.name, volume.obstacle);
      continue;
    }
    const std::size_t number = volumes_.size();
    volumes_.push_back({new_node_number(), std::move(volume.parts)});
    const auto open = [this, number] { return open_volume(number); };
    // A group may be called as a partition is.
    const bool is_taken = found.names.contains(volume.name.substr(0, volume.name.find('/')));
    try {
      const std::vector<FileSystem> on_volume = open()->file_systems();
      for (std::size_t place = 0; place < on_volume.size(); ++place) {
        if (!on_volume[place].readable()) continue;
        const std::uint32_t partition = on_volume[place].partition;
        const std::string name = volume.name + (partition == 0 ? "" : fmt::format("p{}", partition));
        show(found, name, (is_taken ? "group-" : "") + name, open, place);
      }
    } catch (const CaptureError& error) {
      warn(volume.name, error);
    } catch (const Corruption& error) {
      warn(volume.name, error);
    }
  }
}

std::unique_ptr<MountedPoint::Found> MountedPoint::look_for_file_systems() {
  auto found = std::make_unique<Found>(instant_ns_);
  // The other disks are none the worse where one cannot be read.
  for (std::size_t i = 0; i < manifest_.disks.size(); ++i) {
    try {
      look_on_disk(*found, i);
    } catch (const CaptureError& error) {
      warn(manifest_.disks[i].target, error);
    } catch (const Corruption& error) {
      warn(manifest_.disks[i].target, error);
    }
  }
  volumes_.clear();
  try {
    look_for_volumes(*found);
  } catch (const CaptureError& error) {
    warn("logical volumes", error);
  } catch (const Corruption& error) {
    warn("logical volumes", error);
  }
  // Of a guest that did not say: as `files` finds them.
  if (!found->any_mounted && found->file_systems.size() == 1) found->tree.mount("/", *found->file_systems.front());
  found->tree.finish();
  return found;
}

MountedPoint::Found& MountedPoint::found() {
  const std::scoped_lock lock(mutex_);
  if (!found_) found_ = look_for_file_systems();
  return *found_;
}

namespace {

/// The still points of a repository, and those that were opened.
class MountedRepository {
 public:
  explicit MountedRepository(MountShared& shared) : shared_(shared) {}

  /// Names of still points by their domains, oldest first.
  using Domains = std::map<std::string, std::vector<std::string>>;
  [[nodiscard]] std::shared_ptr<const Domains> domains() {
    const std::scoped_lock lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (domains_ && now - looked_ < listing_lasts) return domains_;
    auto fresh = std::make_shared<Domains>();
    for (const StillPointSummary& summary : shared_.repository.list())
      (*fresh)[protocol::dump_name_part(summary.domain)].push_back(summary.name);
    domains_ = fresh;
    looked_ = now;
    return domains_;
  }

  [[nodiscard]] MountNode::Shared point(const std::string& name) {
    const std::scoped_lock lock(mutex_);
    std::unique_ptr<MountedPoint>& point = points_[name];
    if (!point) point = std::make_unique<MountedPoint>(shared_, shared_.repository.load(name));
    return point->root();
  }

 private:
  MountShared& shared_;
  std::mutex mutex_;
  std::shared_ptr<const Domains> domains_;
  std::chrono::steady_clock::time_point looked_;
  std::map<std::string, std::unique_ptr<MountedPoint>> points_;  ///< for as long as it is mounted: nodes are of them
};

std::string time_of(const std::string& still_point) {
  return still_point.substr(still_point.rfind('@') + 1);
}

class DomainDirectory : public OwnNode {
 public:
  DomainDirectory(std::shared_ptr<MountedRepository> repository, std::string domain)
      : OwnNode(EntryType::directory, 0555, nanoseconds_of(wall_now())),
        repository_(std::move(repository)),
        domain_(std::move(domain)) {}
  [[nodiscard]] bool lasting() const override { return false; }

  [[nodiscard]] Shared child(std::string_view name) override {
    const std::vector<std::string> names = still_points();
    if (names.empty()) return nullptr;
    if (name == "latest") {
      const std::scoped_lock lock(mutex_);
      if (const std::string time = time_of(names.back()); !latest_ || latest_->target() != time)
        latest_ = std::make_shared<OwnLink>(time, nanoseconds_of(wall_now()));
      return latest_;
    }
    const auto found = std::ranges::find(names, name, time_of);
    return found == names.end() ? nullptr : repository_->point(*found);
  }

  void list(std::size_t from, const Consumer& consumer) override {
    const std::vector<std::string> names = still_points();
    for (std::size_t i = from; i < names.size(); ++i)
      if (!consumer(time_of(names[i]), {EntryType::directory, new_node_number()}, i + 1)) return;
    if (from <= names.size() && !names.empty())
      consumer("latest", {EntryType::symlink, new_node_number()}, names.size() + 1);
  }

 private:
  [[nodiscard]] std::vector<std::string> still_points() const {
    const auto domains = repository_->domains();
    const auto found = domains->find(domain_);
    return found == domains->end() ? std::vector<std::string>() : found->second;
  }

  std::shared_ptr<MountedRepository> repository_;
  std::string domain_;
  std::mutex mutex_;
  std::shared_ptr<OwnLink> latest_;
};

class RepositoryDirectory : public OwnNode {
 public:
  explicit RepositoryDirectory(MountShared& shared)
      : OwnNode(EntryType::directory, 0555, nanoseconds_of(wall_now())),
        repository_(std::make_shared<MountedRepository>(shared)) {}
  [[nodiscard]] bool lasting() const override { return false; }

  [[nodiscard]] Shared child(std::string_view name) override {
    if (!repository_->domains()->contains(std::string(name))) return nullptr;
    const std::scoped_lock lock(mutex_);
    std::shared_ptr<DomainDirectory>& directory = directories_[std::string(name)];
    if (!directory) directory = std::make_shared<DomainDirectory>(repository_, std::string(name));
    return directory;
  }

  void list(std::size_t from, const Consumer& consumer) override {
    const auto domains = repository_->domains();
    std::size_t number = 0;
    for (const auto& [domain, names] : *domains)
      if (++number > from && !consumer(domain, {EntryType::directory, new_node_number()}, number)) return;
  }

 private:
  std::shared_ptr<MountedRepository> repository_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<DomainDirectory>> directories_;
};

}  // namespace

MountNode::Shared mount_all(MountShared& shared) {
  return std::make_shared<RepositoryDirectory>(shared);
}

}  // namespace stillpoint
