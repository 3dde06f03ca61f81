// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance/appliance.hh"

#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/appliance/accelerator.hh"
#include "host/capture/appliance/blocks-server.hh"
#include "host/capture/tree-wire.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

namespace stillpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::hours mark_age{24};
constexpr std::size_t most_subvolumes = 256;

/// A list of libguestfs': an array of strings that ends in a null pointer.
std::vector<std::string> take_list(char** list) {
  std::vector<std::string> taken;
  for (char** item = list; item != nullptr && *item != nullptr; ++item) {
    taken.emplace_back(*item);
    std::free(*item);
  }
  std::free(list);
  return taken;
}

/// Whether `place` of this boot is known to have no KVM that works; a probe of one that hangs takes its whole time.
class KnownAccelerator {
 public:
  explicit KnownAccelerator(const fs::path& cache) {
    std::ifstream boot("/proc/sys/kernel/random/boot_id");
    std::string id;
    std::getline(boot, id);
    if (!cache.empty() && !id.empty()) mark_ = cache / ("no-kvm-" + id);
  }
  [[nodiscard]] bool works(const fs::path& temporary) const {
    std::error_code ignored;
    // Not for ever: it may have been the load.
    if (const auto time = fs::last_write_time(mark_, ignored);
        !ignored && fs::file_time_type::clock::now() - time < mark_age)
      return false;
    if (kvm_works(temporary)) return true;
    if (!mark_.empty()) std::ofstream(mark_) << "KVM was tried\n";
    return false;
  }

 private:
  fs::path mark_;
};

}  // namespace

std::uint64_t Appliance::total_bytes() const noexcept {
  std::uint64_t total = 0;
  for (const ApplianceDisk& disk : disks_)
    total += disk.size;
  return total;
}

void Appliance::fail(std::string_view what) const {
  const char* error = guestfs_last_error(guestfs_.get());
  throw CaptureError(fmt::format("{}: {}", what, error == nullptr ? "no reason is given" : printable(error)));
}

Appliance::Appliance(const WritablePlaces& places, const std::vector<ApplianceDisk>& disks, int blocks_fd,
                     const std::function<void(std::string_view)>& warn)
    : places_(places), disks_(disks) {
  std::vector<std::uint64_t> sizes;
  for (const ApplianceDisk& disk : disks_)
    sizes.push_back(disk.size);
  server_ = start_blocks_server(places_.temporary, sizes, blocks_fd, BlocksAccess::read_only);
  guestfs_.reset(guestfs_create_flags(GUESTFS_CREATE_NO_CLOSE_ON_EXIT));
  guestfs_h* g = guestfs_.get();
  if (g == nullptr) throw CaptureError("libguestfs cannot be used");
  guestfs_set_error_handler(g, nullptr, nullptr);
  guestfs_set_backend(g, "direct");
  guestfs_set_tmpdir(g, places.temporary.c_str());
  if (!places.cache.empty()) guestfs_set_cachedir(g, places.cache.c_str());
  if (!KnownAccelerator(places.cache).works(places.temporary)) {
    guestfs_set_backend_setting(g, "force_tcg", "1");
    warn("no KVM that works: the appliance is emulated, which takes its time");
  }
  const std::string server = "unix:" + (places.temporary / "blocks").native();
  std::string server_text = server;
  std::array<char*, 2> servers = {server_text.data(), nullptr};
  for (std::size_t i = 0; i < disks.size(); ++i) {
    struct guestfs_add_drive_opts_argv options {};
    options.bitmask = GUESTFS_ADD_DRIVE_OPTS_READONLY_BITMASK | GUESTFS_ADD_DRIVE_OPTS_FORMAT_BITMASK |
                      GUESTFS_ADD_DRIVE_OPTS_PROTOCOL_BITMASK | GUESTFS_ADD_DRIVE_OPTS_SERVER_BITMASK;
    options.readonly = 1;
    options.format = "raw";
    options.protocol = "nbd";
    options.server = servers.data();
    if (guestfs_add_drive_opts_argv(g, std::to_string(i).c_str(), &options) != 0)
      fail("a disk cannot be given to the appliance");
  }
  if (guestfs_launch(g) != 0) fail("libguestfs' appliance does not start ('libguestfs-test-tool' says more)");
}

std::vector<std::string> Appliance::list(char** (*call)(guestfs_h*)) const {
  return take_list(call(guestfs_.get()));
}

std::string Appliance::text(char* (*call)(guestfs_h*, const char*), const std::string& device) const {
  const CPtr<char, std::free> result(call(guestfs_.get(), device.c_str()));
  return result ? result.get() : "";
}

/// "vdb" for "/dev/sdb".
std::string Appliance::disk_of(const std::string& device) const {
  const int index = guestfs_device_index(guestfs_.get(), device.c_str());
  return index >= 0 && static_cast<std::size_t>(index) < disks_.size() ? disks_[static_cast<std::size_t>(index)].name
                                                                       : std::string();
}

std::string Appliance::partition_name(const std::string& partition) const {
  const std::string disk = disk_of(text(guestfs_part_to_dev, partition));
  const int number = guestfs_part_to_partnum(guestfs_.get(), partition.c_str());
  if (disk.empty() || number <= 0) return {};
  return fmt::format("{}{}{}", disk, disk.back() >= '0' && disk.back() <= '9' ? "p" : "", number);
}

/// "md0" for an array that its guest calls so; what the appliance calls it would depend on what else there is.
std::string Appliance::array_name(const std::string& device) const {
  const std::vector<std::string> detail = take_list(guestfs_md_detail(guestfs_.get(), device.c_str()));
  for (std::size_t i = 0; i + 1 < detail.size(); i += 2) {
    if (detail[i] != "name") continue;
    const std::string name = detail[i + 1].substr(detail[i + 1].rfind(':') + 1);
    const bool number =
        !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!name.empty()) return number ? "md" + name : "md/" + name;
  }
  return device.substr(device.rfind('/') + 1);
}

void Appliance::add(std::vector<ApplianceFileSystem>& list, const std::string& device, std::string name) {
  ApplianceFileSystem found;
  found.type = text(guestfs_vfs_type, device);
  // What is made of these comes by its own name.
  if (name.empty() || found.type.empty() || found.type == "swap" || found.type == "LVM2_member" ||
      found.type == "linux_raid_member")
    return;
  if (list.size() >= wire::max_file_systems) return;
  found.name = std::move(name);
  found.device = device;
  const std::int64_t size = guestfs_blockdev_getsize64(guestfs_.get(), device.c_str());
  found.length = size > 0 ? static_cast<std::uint64_t>(size) : 0;
  if (found.type == "crypto_LUKS") {
    for (const Opened& opened : opened_)
      if (opened.name == found.name) return add(list, opened.mapped, found.name);
    found.obstacle = "it is encrypted, and no key that is given opens it";
    list.push_back(std::move(found));
    return;
  }
  found.uuid = text(guestfs_vfs_uuid, device);
  found.label = text(guestfs_vfs_label, device);
  list.push_back(found);
  if (found.type == "btrfs") add_subvolumes(list, found);
}

void Appliance::add_subvolumes(std::vector<ApplianceFileSystem>& list, const ApplianceFileSystem& whole) {
  const CPtr<guestfs_btrfssubvolume_list, guestfs_free_btrfssubvolume_list> subvolumes(
      guestfs_btrfs_subvolume_list(guestfs_.get(), whole.device.c_str()));
  if (!subvolumes) return;
  for (std::uint32_t i = 0; i < subvolumes->len && i < most_subvolumes; ++i) {
    const std::string path = subvolumes->val[i].btrfssubvolume_path;
    if (path.empty() || path.size() > 1024 || printable(path) != path || path.find(':') != std::string::npos) continue;
    if (list.size() >= wire::max_file_systems) return;
    ApplianceFileSystem& added = list.emplace_back(whole);
    added.name = whole.name + "/" + path;
    added.prefix = path + "/";
  }
}

void Appliance::open_encrypted(const std::vector<std::string>& keys) {
  guestfs_h* g = guestfs_.get();
  std::vector<std::pair<std::string, std::string>> devices;
  for (const std::string& partition : list(guestfs_list_partitions))
    devices.emplace_back(partition, partition_name(partition));
  for (const std::string& device : list(guestfs_list_devices))
    devices.emplace_back(device, disk_of(device));
  for (const std::string& array : list(guestfs_list_md_devices))
    devices.emplace_back(array, array_name(array));
  for (const std::string& volume : list(guestfs_lvs))
    devices.emplace_back(volume, volume.substr(std::min<std::size_t>(5, volume.size())));
  for (const auto& [device, name] : devices) {
    if (keys.empty() || text(guestfs_vfs_type, device) != "crypto_LUKS") continue;
    const std::string mapped = fmt::format("crypt{}", opened_.size());
    for (const std::string& key : keys) {
      struct guestfs_cryptsetup_open_argv options {};
      options.bitmask = GUESTFS_CRYPTSETUP_OPEN_READONLY_BITMASK;
      options.readonly = 1;
      if (guestfs_cryptsetup_open_argv(g, device.c_str(), key.c_str(), mapped.c_str(), &options) != 0) continue;
      opened_.push_back({"/dev/mapper/" + mapped, name});
      break;
    }
  }
  // There may be volumes in it.
  if (!opened_.empty()) guestfs_lvm_scan(g, 1);
}

std::vector<ApplianceFileSystem> Appliance::find(const std::vector<std::string>& keys) {
  open_encrypted(keys);
  std::vector<ApplianceFileSystem> found;
  const std::vector<std::string> partitions = list(guestfs_list_partitions);
  for (const std::string& device : list(guestfs_list_devices)) {
    const auto inside = [&](const std::string& partition) { return text(guestfs_part_to_dev, partition) == device; };
    if (std::none_of(partitions.begin(), partitions.end(), inside)) add(found, device, disk_of(device));
    for (const std::string& partition : partitions)
      if (inside(partition)) add(found, partition, partition_name(partition));
  }
  for (const std::string& array : list(guestfs_list_md_devices))
    add(found, array, array_name(array));
  for (const std::string& volume : list(guestfs_lvs))
    if (volume.starts_with("/dev/")) add(found, volume, volume.substr(5));
  return found;
}

void Appliance::mount(const ApplianceFileSystem& file_system) {
  if (!file_system.obstacle.empty()) throw CaptureError(file_system.obstacle);
  if (mounted_ == file_system.device) return;
  mounted_.clear();
  guestfs_h* g = guestfs_.get();
  if (guestfs_umount_all(g) != 0) fail("the appliance cannot unmount what it read before");
  // All of it: subvolumes are directories in it, whichever of them is the default.
  const char* options = file_system.type == "btrfs" ? "ro,subvolid=5" : "ro";
  if (guestfs_mount_options(g, options, file_system.device.c_str(), "/") != 0) fail("it cannot be mounted");
  mounted_ = file_system.device;
}

}  // namespace stillpoint
