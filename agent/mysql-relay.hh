// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-link.hh"
#include "agent/os-user.hh"
#include "common/clock.hh"
#include "common/file.hh"

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint::mysql {

/// Stands between one server and its clients (our sessions and the dump tools): every client gets a unix socket of its
/// own to connect to, and the relay connects to the server for it. So that a call into a client library can be ended at
/// any moment, and so that the dump tools' snapshots open when the barrier stands, not when the tools please.
///
/// One thread moves all bytes and never blocks on a connection. Everything here may be called from any thread.
class Relay {
 public:
  using LinkId = std::size_t;

  /// Makes a directory of its own (0700) below `directory` for the sockets, and starts the thread. `user`: whom the
  /// server shall see at the other end of its socket; us when empty. Throws Error.
  Relay(std::string server_socket, const std::filesystem::path& directory, std::optional<OsUser> user);
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  /// Closes every link.
  ~Relay();

  /// A link for a session of our own. Throws Error.
  [[nodiscard]] LinkId open_plain();
  /// A link for a dump tool. Throws Error.
  [[nodiscard]] LinkId open_gated(GateScript script);
  /// The socket to connect to.
  [[nodiscard]] std::string socket_of(LinkId link) const;

  /// Closes the link when it passes; for plain links. The link's user sees a lost connection.
  void limit(LinkId link, const Deadline& deadline);
  void unlimit(LinkId link);
  void close(LinkId link, const std::string& reason);

  /// What to read in the transaction right after the snapshot has opened, so that it holds the tables' metadata locks.
  void set_pins(LinkId link, std::vector<std::string> statements);
  /// Lets the held back query of every link that is ready go to the server.
  void open_snapshots();
  /// The dump may run.
  void pass(LinkId link);

  [[nodiscard]] LinkState state(LinkId link) const;
  /// Why the link is closed.
  [[nodiscard]] std::string failure(LinkId link) const;
  /// How many of the pins failed.
  [[nodiscard]] std::size_t failed_pins(LinkId link) const;

  /// Waits until none of the links is in one of the states. False when the deadline comes first or after cancel().
  bool wait_until_none(std::span<const LinkId> links, std::initializer_list<LinkState> states,
                       const Deadline& deadline);

  /// Closes every link and refuses new ones. Touches no file system, waits for nobody.
  void cancel() noexcept;
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_; }

 private:
  void run();
  void serve_once();
  LinkId add(std::optional<GateScript> script);
  void change(LinkId link, const std::function<void(Link&)>& action);
  void wake() noexcept;

  std::string server_socket_;
  std::optional<OsUser> user_;
  std::filesystem::path directory_;
  UniqueFd wake_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Link>> links_;  ///< guarded by mutex_
  std::thread thread_;
};

}  // namespace stillpoint::mysql
