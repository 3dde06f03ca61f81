// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/cluster.hh"

#include "common/bounded-call.hh"
#include "host/ceph/module/rados-pool.hh"
#include "host/ceph/module/rbd-pool.hh"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

namespace stillpoint {
namespace {

CPtr<void, rados_shutdown> create(const std::string& user) {
  rados_t cluster = nullptr;
  ceph_check(rados_create2(&cluster, "ceph", ("client." + user).c_str(), 0), "cannot set up a Ceph client");
  return CPtr<void, rados_shutdown>(cluster);
}

/// nullopt when the call is left to itself.
std::optional<int> bounded(std::chrono::milliseconds limit, std::function<int()> call) {
  if (const auto result = bounded_call(Deadline(limit), std::move(call))) return result;
  static std::once_flag once;
  // What the libraries do at the end of a program takes away what that call still uses.
  std::call_once(once, [] {
    ::on_exit(
        [](int status, void*) {
          std::fflush(nullptr);
          ::_exit(status);
        },
        nullptr);
  });
  return std::nullopt;
}

}  // namespace

std::optional<int> try_holder(std::function<int()> call) {
  return bounded(ceph_holder_limit, std::move(call));
}

int ask_holder(std::function<int()> call) {
  return try_holder(std::move(call)).value_or(-ETIMEDOUT);
}

Cluster::Cluster(const CephAddress& address) : cluster_(create(address.user.empty() ? "admin" : address.user)) {
  const std::string user = address.user.empty() ? "admin" : address.user;
  if (const int result = rados_conf_read_file(get(), address.conf.empty() ? nullptr : address.conf.c_str());
      result < 0 && (!address.conf.empty() || address.monitors.empty()))
    throw ConfigError(errno_message(address.conf.empty() ? "cannot read Ceph's configuration"
                                                         : fmt::format("cannot read {}", address.conf),
                                    -result),
                      "name a ceph.conf");
  if (!address.monitors.empty()) configure("mon_host", address.monitors);
  if (!address.key.empty()) configure("key", address.key);
  configure("client_mount_timeout", std::to_string(ceph_connect_limit.count()));
  configure("rados_mon_op_timeout", std::to_string(ceph_monitor_limit.count()));
  configure("rados_osd_op_timeout", std::to_string(ceph_operation_limit.count()));
  // Everything is read and written once, in large pieces.
  configure("rbd_cache", "false");
  // A guest that the cluster has not heard of for half a minute may be alive, and never write again once it is on the
  // block list: for a snapshot, its lock is taken without that.
  if (address.spares_lock_owners) configure("rbd_blocklist_on_break_lock", "false");
  configure("log_to_stderr", "false");
  configure("err_to_stderr", "false");
  const std::string where = address.conf.empty()
                                ? (address.monitors.empty() ? "by the machine's ceph.conf" : "at " + address.monitors)
                                : "by " + address.conf;
  if (const int result = rados_connect(get()); result < 0) {
    const std::string what = fmt::format("client.{} cannot connect to the Ceph cluster {}", user, where);
    if (result == -ENOENT || result == -EACCES || result == -EPERM || result == -EINVAL)
      throw ConfigError(errno_message(what, -result), "check the user's name and key, and the keyring");
    throw Unreachable(errno_message(what, -result), "look whether its monitors run (ceph -s), then try again");
  }
  std::array<char, 64> fsid{};
  ceph_check(rados_cluster_fsid(get(), fsid.data(), fsid.size()), "cannot ask for the cluster's fsid");
  fsid_ = fsid.data();
  words_ = fmt::format("client.{} of cluster {}", user, fsid_);
}

void Cluster::configure(const char* option, const std::string& value) {
  ceph_check(rados_conf_set(get(), option, value.c_str()), fmt::format("cannot set Ceph's option {}", option));
}

void Cluster::check_monitors() {
  const std::optional<int> result =
      bounded(ceph_monitor_patience, [self = shared_from_this()] { return rados_wait_for_latest_osdmap(self->get()); });
  const std::string what = fmt::format("no monitor of Ceph cluster {} answers", fsid_);
  if (!result) throw Unreachable(what, look_at_cluster);
  ceph_check(*result, what);
}

std::unique_ptr<RadosPool> Cluster::rados_pool(const std::string& pool, const std::string& name_space) {
  return make_rados_pool(PoolContext(shared_from_this(), pool, name_space));
}

std::string Cluster::pool_name(std::int64_t id) {
  std::array<char, 1024> name{};
  const int result = rados_pool_reverse_lookup(get(), id, name.data(), name.size() - 1);
  if (result == -ENOENT) throw NotFound(fmt::format("cluster {} has no pool number {}", fsid_, id));
  ceph_check(result, fmt::format("cannot ask for pool number {}", id));
  return name.data();
}

std::unique_ptr<RbdPool> Cluster::rbd_pool(const std::string& pool, const std::string& name_space) {
  return make_rbd_pool(PoolContext(shared_from_this(), pool, name_space));
}

PoolContext::PoolContext(std::shared_ptr<Cluster> cluster, const std::string& pool, const std::string& name_space)
    : cluster_(std::move(cluster)), pool_(pool), name_space_(name_space) {
  rados_ioctx_t context = nullptr;
  const int result = rados_ioctx_create(cluster_->get(), pool.c_str(), &context);
  if (result == -ENOENT)
    throw NotFound(fmt::format("cluster {} has no pool '{}'", cluster_->fsid(), pool), "see ceph osd pool ls");
  ceph_check(result, fmt::format("cannot open pool '{}'", pool));
  context_.reset(context);
  rados_ioctx_set_namespace(get(), name_space.c_str());
}

}  // namespace stillpoint

// What connect_ceph() looks for.
extern "C" __attribute__((visibility("default"))) void stillpoint_connect_ceph(
    const stillpoint::CephAddress& address, std::shared_ptr<stillpoint::CephCluster>& cluster) {
  cluster = std::make_shared<stillpoint::Cluster>(address);
}
