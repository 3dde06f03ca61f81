// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <memory>
#include <string>
#include <string_view>

namespace stillpoint {

class RadosPool;

/// Where a store in a Ceph cluster's pool is: rados://POOL[/NAMESPACE][?conf=FILE&id=USER&data-pool=POOL], %XX for a
/// byte that would be taken for something else.
struct RadosAddress {
  std::string pool{};
  std::string name_space{};  ///< may be empty
  std::string conf{};        ///< an absolute path; empty: the machine's
  std::string user{};        ///< empty: admin
  std::string data_pool{};   ///< where the contents lie, named when the store is made; empty: in the same pool

  bool operator==(const RadosAddress&) const = default;
};
/// `rest`: what follows "rados://". Throws ConfigError.
[[nodiscard]] RadosAddress parse_rados_address(std::string_view rest);
[[nodiscard]] std::string to_url(const RadosAddress& address);

/// Objects in a pool, or a namespace of it (docs/repository-format.md, In a Ceph pool). Names stand in *folders*, RADOS
/// objects with an entry for each name; contents lie in *pieces*, RADOS objects of their own. Whatever changes names
/// is one operation on one folder, so that a lease's unfinished objects can be taken away from their writer. RADOS has
/// no clock for its clients: an object was modified when its writer's clock said so at the commit, which is the clock
/// that dates his lease, too.
class RadosStore : public Store {
 public:
  /// Throws ConfigError, Unreachable.
  RadosStore(const RadosAddress& address, StoreAccess access);
  ~RadosStore() override;

  [[nodiscard]] const std::string& url() const override { return url_; }
  [[nodiscard]] std::unique_ptr<ObjectWriter> writer(std::string name) override;
  [[nodiscard]] std::unique_ptr<ObjectReader> reader(const std::string& name) override;
  [[nodiscard]] std::unique_ptr<ObjectView> view(const std::string& name) override;
  [[nodiscard]] std::vector<ObjectInfo> list(std::string_view prefix) override;
  [[nodiscard]] bool exists(const std::string& name) override;
  void remove(const std::string& name) override;
  void work_under(std::string_view lease) override { lease_ = lease; }
  void drop_unfinished(std::string_view lease) override;
  /// Renewed while it is held; when its holder is dead it ends after half a minute.
  [[nodiscard]] std::unique_ptr<StoreLock> try_lock(const std::string& name) override;

 private:
  struct Pools;
  class Writer;
  class Reader;
  class Lock;

  std::string url_;
  std::shared_ptr<Pools> pools_;
  std::string lease_;
};

}  // namespace stillpoint
