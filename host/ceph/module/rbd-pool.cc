// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rbd-pool.hh"

#include "host/ceph/module/rbd-image.hh"

#include <fmt/format.h>
#include <rbd/librbd.h>

#include <algorithm>
#include <cerrno>

namespace stillpoint {
namespace {

using ImageOptions = CPtr<void, rbd_image_options_destroy>;

ImageOptions image_options() {
  rbd_image_options_t options = nullptr;
  rbd_image_options_create(&options);
  return ImageOptions(options);
}

void set(const ImageOptions& options, int option, std::uint64_t value) {
  ceph_check(rbd_image_options_set_uint64(options.get(), option, value), "cannot set an image's option");
}

void set(const ImageOptions& options, int option, const std::string& value) {
  ceph_check(rbd_image_options_set_string(options.get(), option, value.c_str()), "cannot set an image's option");
}

class Pool : public RbdPool {
 public:
  explicit Pool(PoolContext context) : context_(std::make_shared<PoolContext>(std::move(context))) {}

  std::unique_ptr<RbdImage> open(const std::string& image, RbdAccess access) override;
  bool has(const std::string& image) override;
  void create(const std::string& image, const RbdLayout& layout) override;
  void clone(const std::string& parent, const std::string& snapshot, RbdPool& into, const std::string& image) override;
  void rename(const std::string& image, const std::string& name) override;
  void remove(const std::string& image) override;

  std::vector<std::string> groups() override;
  void create_group(const std::string& group) override;
  void add_to_group(const std::string& group, RbdPool& images, const std::string& image) override;
  void snapshot_group(const std::string& group, const std::string& snapshot) override;
  void remove_group(const std::string& group) override;
  void* context() override { return context_->get(); }

 private:
  [[nodiscard]] std::string words(const std::string& image) const {
    return to_string(RbdPlace{context_->pool(), context_->name_space(), image});
  }
  [[nodiscard]] bool in_trash(const std::string& image) const;
  [[nodiscard]] std::vector<std::string> snapshots_of_group(const std::string& group) const;

  std::shared_ptr<PoolContext> context_;
};

bool Pool::in_trash(const std::string& image) const {
  std::size_t count = 256;
  std::vector<rbd_trash_image_info_t> entries(count);
  int result = 0;
  while ((result = rbd_trash_list(context_->get(), entries.data(), &count)) == -ERANGE)
    entries.resize(count);
  if (result < 0) return false;
  entries.resize(count);
  const bool found =
      std::any_of(entries.begin(), entries.end(), [&](const rbd_trash_image_info_t& e) { return image == e.name; });
  rbd_trash_list_cleanup(entries.data(), entries.size());
  return found;
}

std::unique_ptr<RbdImage> Pool::open(const std::string& image, RbdAccess access) {
  rbd_image_t opened = nullptr;
  const int result = access == RbdAccess::read ? rbd_open_read_only(context_->get(), image.c_str(), &opened, nullptr)
                                               : rbd_open(context_->get(), image.c_str(), &opened, nullptr);
  if (result == -ENOENT)
    throw NotFound(in_trash(image) ? fmt::format("RBD image {} lies in the trash", words(image))
                                   : fmt::format("there is no RBD image {} in cluster {}", words(image),
                                                 context_->cluster().fsid()),
                   "see rbd ls and rbd trash ls");
  ceph_check(result, fmt::format("cannot open RBD image {}", words(image)));
  return make_rbd_image(context_, {context_->pool(), context_->name_space(), image}, opened);
}

bool Pool::has(const std::string& image) {
  rbd_image_t opened = nullptr;
  const int result = rbd_open_read_only(context_->get(), image.c_str(), &opened, nullptr);
  if (result == -ENOENT) return false;
  ceph_check(result, fmt::format("cannot open RBD image {}", words(image)));
  rbd_close(opened);
  return true;
}

void Pool::create(const std::string& image, const RbdLayout& layout) {
  const ImageOptions options = image_options();
  if (layout.order != 0) set(options, RBD_IMAGE_OPTION_ORDER, layout.order);
  if (layout.features) set(options, RBD_IMAGE_OPTION_FEATURES, *layout.features);
  if (layout.stripe_unit != 0 && layout.stripe_count != 0) {
    set(options, RBD_IMAGE_OPTION_STRIPE_UNIT, layout.stripe_unit);
    set(options, RBD_IMAGE_OPTION_STRIPE_COUNT, layout.stripe_count);
  }
  if (!layout.data_pool.empty()) set(options, RBD_IMAGE_OPTION_DATA_POOL, layout.data_pool);
  ceph_check(rbd_create4(context_->get(), image.c_str(), layout.size, options.get()),
             fmt::format("cannot create RBD image {}", words(image)));
}

void Pool::clone(const std::string& parent, const std::string& snapshot, RbdPool& into, const std::string& image) {
  const ImageOptions options = image_options();
  constexpr std::uint64_t clone_of_unprotected = 2;
  set(options, RBD_IMAGE_OPTION_CLONE_FORMAT, clone_of_unprotected);
  ceph_check(
      rbd_clone3(context_->get(), parent.c_str(), snapshot.c_str(), into.context(), image.c_str(), options.get()),
      fmt::format("cannot clone {}@{} as {}", words(parent), snapshot, image));
}

void Pool::rename(const std::string& image, const std::string& name) {
  ceph_check(rbd_rename(context_->get(), image.c_str(), name.c_str()),
             fmt::format("cannot call RBD image {} {}", words(image), name));
}

void Pool::remove(const std::string& image) {
  const int result = rbd_remove(context_->get(), image.c_str());
  if (result != -ENOENT) ceph_check(result, fmt::format("cannot remove RBD image {}", words(image)));
}

std::vector<std::string> Pool::groups() {
  std::size_t size = 4096;
  std::string names(size, '\0');
  int result = 0;
  while ((result = rbd_group_list(context_->get(), names.data(), &size)) == -ERANGE)
    names.resize(size);
  ceph_check(result, fmt::format("cannot list the groups of {}", context_->words()));
  std::vector<std::string> list;
  for (std::size_t at = 0; at < static_cast<std::size_t>(result);) {
    list.emplace_back(names.c_str() + at);
    at += list.back().size() + 1;
  }
  return list;
}

void Pool::create_group(const std::string& group) {
  ceph_check(rbd_group_create(context_->get(), group.c_str()), fmt::format("cannot create RBD group {}", words(group)));
}

void Pool::add_to_group(const std::string& group, RbdPool& images, const std::string& image) {
  ceph_check(rbd_group_image_add(context_->get(), group.c_str(), images.context(), image.c_str()),
             fmt::format("cannot add RBD image {} to group {}", image, words(group)));
}

void Pool::snapshot_group(const std::string& group, const std::string& snapshot) {
  const int result = ask_holder([context = context_, group, snapshot] {
    return rbd_group_snap_create2(context->get(), group.c_str(), snapshot.c_str(), RBD_SNAP_CREATE_SKIP_QUIESCE);
  });
  ceph_check(result, fmt::format("cannot take a snapshot of RBD group {}", words(group)));
}

std::vector<std::string> Pool::snapshots_of_group(const std::string& group) const {
  std::size_t count = 64;
  std::vector<rbd_group_snap_info_t> entries(count);
  int result = 0;
  while ((result = rbd_group_snap_list(context_->get(), group.c_str(), entries.data(), sizeof entries.front(),
                                       &count)) == -ERANGE)
    entries.resize(count);
  if (result == -ENOENT) return {};
  ceph_check(result, fmt::format("cannot list the snapshots of RBD group {}", words(group)));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i)
    names.emplace_back(entries[i].name);
  rbd_group_snap_list_cleanup(entries.data(), sizeof entries.front(), count);
  return names;
}

void Pool::remove_group(const std::string& group) {
  for (const std::string& snapshot : snapshots_of_group(group)) {
    const int result = ask_holder([context = context_, group, snapshot] {
      return rbd_group_snap_remove(context->get(), group.c_str(), snapshot.c_str());
    });
    if (result != -ENOENT)
      ceph_check(result, fmt::format("cannot remove snapshot {} of RBD group {}", snapshot, words(group)));
  }
  const int result = rbd_group_remove(context_->get(), group.c_str());
  if (result != -ENOENT) ceph_check(result, fmt::format("cannot remove RBD group {}", words(group)));
}

}  // namespace

std::unique_ptr<RbdPool> make_rbd_pool(PoolContext context) {
  return std::make_unique<Pool>(std::move(context));
}

}  // namespace stillpoint
