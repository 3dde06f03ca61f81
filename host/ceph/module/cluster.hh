// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "host/ceph/cluster.hh"

#include <rados/librados.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace stillpoint {

/// Mounting: finding the monitors and being let in.
inline constexpr std::chrono::seconds ceph_connect_limit{15};
inline constexpr std::chrono::seconds ceph_monitor_limit{30};
/// For one operation: an OSD that restarts needs seconds, one that is down some tens of them until another takes over.
inline constexpr std::chrono::seconds ceph_operation_limit{90};

/// For what librbd asks the holder of an image's lock to do (QEMU, of a guest's disk): while that one lives and does
/// not answer, as when he waits for a monitor, it asks again and again, and librados' limits do not end it.
inline constexpr std::chrono::seconds ceph_holder_limit = ceph_operation_limit + std::chrono::seconds(10);
/// For a monitor's word that it is there: one that is started again, or another in its place, is found within some
/// seconds.
inline constexpr std::chrono::seconds ceph_monitor_patience{10};
/// Such a call, which owns all that it touches: it is left to itself at the limit, and this program's end does not wait
/// for it.
[[nodiscard]] std::optional<int> try_holder(std::function<int()> call);
/// -ETIMEDOUT for one that is left to itself.
[[nodiscard]] int ask_holder(std::function<int()> call);

/// Throws CephError when librados or librbd returned a negative errno; else returns what it returned.
template <typename Result>
Result ceph_check(Result result, std::string_view what) {
  static_assert(std::is_signed_v<Result>);
  if (result < 0) throw CephError(std::string(what), static_cast<int>(-result));
  return result;
}

class Cluster : public CephCluster, public std::enable_shared_from_this<Cluster> {
 public:
  explicit Cluster(const CephAddress& address);

  [[nodiscard]] const std::string& fsid() const override { return fsid_; }
  [[nodiscard]] const std::string& words() const override { return words_; }
  void check_monitors() override;
  [[nodiscard]] std::unique_ptr<RadosPool> rados_pool(const std::string& pool, const std::string& name_space) override;
  [[nodiscard]] std::string pool_name(std::int64_t id) override;
  [[nodiscard]] std::unique_ptr<RbdPool> rbd_pool(const std::string& pool, const std::string& name_space) override;

  [[nodiscard]] rados_t get() const noexcept { return cluster_.get(); }

 private:
  void configure(const char* option, const std::string& value);

  std::string words_;
  std::string fsid_;
  CPtr<void, rados_shutdown> cluster_;
};

/// A pool as librados and librbd take it, with the connection that it lies on.
class PoolContext {
 public:
  PoolContext(std::shared_ptr<Cluster> cluster, const std::string& pool, const std::string& name_space);

  [[nodiscard]] rados_ioctx_t get() const noexcept { return context_.get(); }
  [[nodiscard]] const std::string& pool() const noexcept { return pool_; }
  [[nodiscard]] const std::string& name_space() const noexcept { return name_space_; }
  [[nodiscard]] Cluster& cluster() const noexcept { return *cluster_; }
  /// "pool/namespace"
  [[nodiscard]] std::string words() const { return name_space_.empty() ? pool_ : pool_ + "/" + name_space_; }

 private:
  std::shared_ptr<Cluster> cluster_;
  std::string pool_;
  std::string name_space_;
  CPtr<void, rados_ioctx_destroy> context_;
};

}  // namespace stillpoint
