// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-galera.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <thread>

namespace stillpoint::mysql {
namespace {

constexpr std::chrono::milliseconds poll_interval{10};
constexpr const char* synced = "Synced";

using Values = std::map<std::string, std::string>;

/// SHOW does without tables: a node outside of a Primary component answers nothing else.
Values show(Session& session, const char* what, const Deadline& deadline) {
  Values values;
  for (Session::Row& row : session.rows(fmt::format("SHOW GLOBAL {} LIKE 'wsrep\\_%'", what), deadline))
    if (row.size() == 2) values[row[0]] = std::move(row[1]);
  return values;
}

}  // namespace

bool is_galera_node(Session& session, const Deadline& deadline) {
  Values variables = show(session, "VARIABLES", deadline);
  const std::string& provider = variables["wsrep_provider"];
  if (provider.empty() || provider == "none") return false;
  // Switched off, it still applies what the others write.
  return variables["wsrep_on"] == "ON" || show(session, "STATUS", deadline)["wsrep_connected"] == "ON";
}

std::string cluster_uuid(Session& session, const Deadline& deadline) {
  return show(session, "STATUS", deadline)["wsrep_cluster_state_uuid"];
}

void require_synced(Session& session, const Deadline& deadline) {
  Values status = show(session, "STATUS", deadline);
  const std::string& component = status["wsrep_cluster_status"];
  const std::string& state = status["wsrep_local_state_comment"];
  if (component == "Primary" && state == synced) return;
  // With wsrep_on=OFF it names no state.
  const bool connected = !state.empty() && status["wsrep_connected"] == "ON";
  throw QuiesceError(connected ? fmt::format("this node of a Galera cluster is {} in a {} component", state, component)
                               : std::string("this node of a Galera cluster is not connected to it"),
                     "take the still point of a node that is Synced in a Primary one; a node that stays Donor/Desynced "
                     "has wsrep_desync=ON");
}

std::string paused_at(Session& session, const Deadline& deadline) {
  Values status = show(session, "STATUS", deadline);
  if (status["wsrep_local_state_comment"] == synced)
    throw QuiesceError("this node of a Galera cluster did not desync for the barrier, so the cluster's writes go on",
                       "SET GLOBAL wsrep_on=ON");
  return status["wsrep_cluster_state_uuid"] + ':' + status["wsrep_last_committed"];
}

std::string wait_until_synced(Session& session, const Deadline& deadline) {
  for (;;) {
    std::string state = show(session, "STATUS", deadline)["wsrep_local_state_comment"];
    if (state == synced || deadline.left() <= 2 * poll_interval) return state;
    std::this_thread::sleep_for(poll_interval);
  }
}

}  // namespace stillpoint::mysql
