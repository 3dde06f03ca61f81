// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/json.hh"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// How a database's dump stands to the block snapshot.
enum class Exactness {
  exact,   ///< the dump shows the very instant of the barrier
  skewed,  ///< the dump is consistent in itself, of another instant than the snapshot
  failed,  ///< there is no dump, or the database was not quiesced
};

[[nodiscard]] std::string_view to_string(Exactness exactness);
[[nodiscard]] Exactness parse_exactness(std::string_view text);

struct SequenceValue {
  std::string name;  ///< schema-qualified and quoted as the server's quote_ident does
  std::int64_t last_value = 0;
  bool is_called = false;
};

/// What a still point does not cover of a database.
struct NotCovered {
  std::string kind;  ///< "non-transactional-table", "prepared-transaction", "unlogged-table", ...
  std::string name;  ///< the object, empty for a mere count
  std::uint64_t count = 1;
};

/// One database at the barrier.
struct DatabaseReport {
  std::string engine;    ///< "postgresql", "mariadb", "mysql", or a plug-in's
  std::string instance;  ///< "15-main", "default": what tells servers of one engine apart
  std::string database;  ///< empty when the entry speaks of the whole instance
  std::string server_version;
  std::string data_directory;  ///< of the server, in the guest; empty when it is not known
  std::string dump;            ///< the dump's name (protocol::is_dump_name); empty when there is none
  Exactness exactness = Exactness::failed;
  std::string reason;              ///< why it is not exact; empty when it is
  std::string mode;                ///< how it was quiesced: "share-locks", "backup-stage", "ftwrl", ...
  Json position = Json::object();  ///< engine-specific: {"lsn": "0/15D..."} or {"binlog": ..., "gtid": ...}
  std::uint64_t attempts = 0;      ///< to take the locks
  std::chrono::microseconds acquired_in{0};
  std::vector<SequenceValue> sequences;
  std::vector<NotCovered> not_covered;
};

struct SiteHookReport {
  std::string name;
  std::chrono::milliseconds took{0};
  std::string failure;  ///< empty when it succeeded
};

/// What the agent attests for one id: written and fsynced inside the barrier, and sent to the host.
struct Report {
  std::string id;
  std::string agent_version;
  std::string hostname;
  /// Absolute and without symbolic links: where the copy inside the block snapshot lies. Empty when it is not known.
  std::string path;
  WallTime prepared_at{};
  WallTime barrier_begun_at{};
  WallTime barrier_at{};  ///< the instant: every database quiesced, every database snapshot open
  bool quiesced = false;
  std::string failure;  ///< why not
  std::vector<SiteHookReport> site_hooks;
  std::vector<DatabaseReport> databases;

  // Known only after the thaw, hence never in the copy inside the block snapshot.
  std::optional<WallTime> released_at;
  bool watchdog_fired = false;
};

[[nodiscard]] Json to_json(const Report& report);

/// Validates every field and bound (the text comes from a guest). Throws ProtocolError.
[[nodiscard]] Report parse_report(const Json& json);

}  // namespace stillpoint
