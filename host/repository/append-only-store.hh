// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace stillpoint {

/// A store for whoever may add still points and read them, and delete nothing: what keeps old still points from an
/// intruder on a hypervisor. It refuses to delete anything but the writer's own lease, to write what would make a prune
/// delete, and to date a still point before the store was opened or after now. Enforced where the store is served, not
/// by the writer.
class AppendOnlyStore : public Store {
 public:
  /// `domains`: patterns as fnmatch(3) has them, of which a still point's domain must match one; empty for any domain.
  AppendOnlyStore(std::unique_ptr<Store> store, std::vector<std::string> domains);

  [[nodiscard]] const std::string& url() const override { return store_->url(); }
  [[nodiscard]] bool may_remove() const override { return false; }
  [[nodiscard]] std::unique_ptr<ObjectWriter> writer(std::string name) override;
  [[nodiscard]] std::unique_ptr<ObjectReader> reader(const std::string& name) override { return store_->reader(name); }
  [[nodiscard]] std::unique_ptr<ObjectView> view(const std::string& name) override { return store_->view(name); }
  [[nodiscard]] std::vector<ObjectInfo> list(std::string_view prefix) override { return store_->list(prefix); }
  [[nodiscard]] bool exists(const std::string& name) override { return store_->exists(name); }
  void remove(const std::string& name) override;
  [[nodiscard]] std::chrono::seconds visibility() const override { return store_->visibility(); }
  void work_under(std::string_view lease) override { store_->work_under(lease); }
  void drop_unfinished(std::string_view lease) override;
  [[nodiscard]] std::unique_ptr<StoreLock> try_lock(const std::string& name) override { return store_->try_lock(name); }

 private:
  class LeaseWriter;
  void check_manifest(std::string_view object) const;
  void check_drill(std::string_view object) const;
  void check_domain(const std::string& domain) const;

  std::unique_ptr<Store> store_;
  std::vector<std::string> domains_;
  WallTime opened_;
  std::mutex mutex_;
  std::set<std::string> own_leases_;  ///< objects that were written through this store
};

}  // namespace stillpoint
