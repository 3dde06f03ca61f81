// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/repository/store.hh"

#include <filesystem>

namespace stillpoint {

/// Objects as files of one directory. A file is written in `tmp/` as LEASE.ID, synced, and linked to its name only
/// then.
class DirectoryStore : public Store {
 public:
  /// Throws ConfigError: no such directory, something in the way, not writable.
  DirectoryStore(const std::filesystem::path& path, StoreAccess access);

  [[nodiscard]] const std::string& url() const override { return root_.native(); }
  [[nodiscard]] std::optional<std::filesystem::path> directory() const override { return root_; }
  [[nodiscard]] std::unique_ptr<ObjectWriter> writer(std::string name) override;
  [[nodiscard]] std::unique_ptr<ObjectReader> reader(const std::string& name) override;
  [[nodiscard]] std::unique_ptr<ObjectView> view(const std::string& name) override;
  [[nodiscard]] std::vector<ObjectInfo> list(std::string_view prefix) override;
  [[nodiscard]] bool exists(const std::string& name) override;
  void remove(const std::string& name) override;
  /// NFS caches directories, for up to a minute by default: also what is written on the server's own disk.
  [[nodiscard]] std::chrono::seconds visibility() const override;
  void work_under(std::string_view lease) override { lease_ = lease; }
  void drop_unfinished(std::string_view lease) override;
  /// A file in `locks/`, also between machines where the file system has flock(2) for them.
  [[nodiscard]] std::unique_ptr<StoreLock> try_lock(const std::string& name) override;

 private:
  UniqueFd open_object(const std::string& name) const;

  std::filesystem::path root_;
  std::string lease_;
  bool is_local_ = true;  ///< false on network file systems, where a deleted file's mapping may fault
};

}  // namespace stillpoint
