// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <memory>
#include <string>
#include <string_view>

namespace stillpoint {

/// Where a store is that another machine serves: ssh://[user@]host[:port]/path.
struct RemoteAddress {
  std::string user;  ///< empty for ssh's own choice
  std::string host;
  std::string port;  ///< empty for ssh's own choice
  std::string path;  ///< absolute
};

/// `rest`: what follows "ssh://". Throws ConfigError.
[[nodiscard]] RemoteAddress parse_remote_address(std::string_view rest);

/// A store that `stillpoint store` serves on another machine, reached by ssh (the program that STILLPOINT_RSH names,
/// ssh when it does not). All threads share one connection; what they ask for is on its way at once.
class RemoteStore : public Store {
 public:
  /// Throws ConfigError, Unreachable.
  RemoteStore(const RemoteAddress& address, StoreAccess access);
  RemoteStore(const RemoteStore&) = delete;
  RemoteStore& operator=(const RemoteStore&) = delete;
  ~RemoteStore() override;

  [[nodiscard]] const std::string& url() const override { return url_; }
  [[nodiscard]] std::unique_ptr<ObjectWriter> writer(std::string name) override;
  [[nodiscard]] std::unique_ptr<ObjectReader> reader(const std::string& name) override;
  [[nodiscard]] std::unique_ptr<ObjectView> view(const std::string& name) override;
  [[nodiscard]] std::vector<ObjectInfo> list(std::string_view prefix) override;
  [[nodiscard]] bool exists(const std::string& name) override;
  [[nodiscard]] bool may_remove() const override { return !append_only_; }
  void remove(const std::string& name) override;
  [[nodiscard]] std::chrono::seconds visibility() const override;
  void work_under(std::string_view lease) override;
  void drop_unfinished(std::string_view lease) override;
  [[nodiscard]] std::unique_ptr<StoreLock> try_lock(const std::string& name) override;

 private:
  class Connection;
  class Writer;
  class Reader;
  class Lock;

  std::string url_;
  std::shared_ptr<Connection> connection_;
  std::chrono::seconds visibility_{0};
  bool append_only_ = false;
};

}  // namespace stillpoint
