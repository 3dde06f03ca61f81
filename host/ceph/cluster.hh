// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"

#include <cstdint>
#include <memory>
#include <string>

namespace stillpoint {

class RadosPool;
class RbdPool;

/// How a Ceph cluster is reached, and as whom.
struct CephAddress {
  std::string conf{};      ///< a ceph.conf; empty: $CEPH_CONF, else the machine's (/etc/ceph/ceph.conf)
  std::string user{};      ///< "cinder" for client.cinder; empty: "admin"
  std::string key{};       ///< its cephx secret, base64; empty: from the keyring that the configuration names
  std::string monitors{};  ///< "host:port,host:port" instead of the configuration's; may be empty
  /// Never put another client on the block list for a lock of an image: it may be a guest whose watch has lapsed.
  bool spares_lock_owners = false;

  bool operator==(const CephAddress&) const = default;
};

/// What the operator is told when it does not answer in time.
inline constexpr const char* look_at_cluster = "look at the cluster (ceph -s), then try again";

/// What Ceph answered. Its exit code is by the reaction: no answer or cut off (unreachable), full (storage), not
/// allowed (configuration), not there (not_found), else a failed read or write (capture).
class CephError : public Error {
 public:
  CephError(const std::string& what, int code);

  [[nodiscard]] int code() const noexcept { return code_; }  ///< an errno, positive

 private:
  int code_;
};

/// A connection to a cluster. Everything asked over it ends within a limit, by ETIMEDOUT. Safe to use from several
/// threads.
class CephCluster {
 public:
  virtual ~CephCluster() = default;

  [[nodiscard]] virtual const std::string& fsid() const = 0;
  /// For messages: "client.cinder of cluster FSID".
  [[nodiscard]] virtual const std::string& words() const = 0;

  /// Asks a monitor, and throws Unreachable when none answers within ten seconds. From when a guest's own librbd begins
  /// a snapshot it writes nothing until its monitor has numbered it, however long that takes: better not to ask it
  /// then.
  virtual void check_monitors() = 0;

  /// `name_space` may be empty. Throws NotFound, CephError. The pool keeps the connection.
  [[nodiscard]] virtual std::unique_ptr<RadosPool> rados_pool(const std::string& pool,
                                                              const std::string& name_space) = 0;
  /// The pool's name now; it keeps its number when it is renamed. Throws NotFound.
  [[nodiscard]] virtual std::string pool_name(std::int64_t id) = 0;
  [[nodiscard]] virtual std::unique_ptr<RbdPool> rbd_pool(const std::string& pool, const std::string& name_space) = 0;
};

/// librados and librbd lie in a module of their own, loaded here for the first time that they are needed: they are
/// large, and most hypervisors have no Ceph. Throws ConfigError (the module is not installed, no such configuration,
/// not allowed), Unreachable.
[[nodiscard]] std::shared_ptr<CephCluster> connect_ceph(const CephAddress& address);

}  // namespace stillpoint
