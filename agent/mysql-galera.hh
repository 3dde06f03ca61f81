// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-session.hh"
#include "common/clock.hh"

#include <string>

namespace stillpoint::mysql {

/// A node of a Galera cluster is held by the barrier that holds any server: for BACKUP STAGE BLOCK_DDL and for
/// FLUSH TABLES WITH READ LOCK the server itself desyncs from the cluster, so that the other nodes' writers never wait
/// for this one, and pauses what it applies for them. Both last as long as the barrier's session and end with it, also
/// after a crash. SET GLOBAL wsrep_desync would neither shorten a stall nor undo itself. Here is what is left to check.

/// Whether the server belongs to a cluster, or is meant to. Throws SessionError.
[[nodiscard]] bool is_galera_node(Session& session, const Deadline& deadline);

/// The cluster's own id, a UUID. Throws SessionError.
[[nodiscard]] std::string cluster_uuid(Session& session, const Deadline& deadline);

/// Throws QuiesceError unless the node is Synced with a Primary component: not while it lags behind, sends its state to
/// a joining node, or somebody else holds it.
void require_synced(Session& session, const Deadline& deadline);

/// With the barrier taken: the last write set that the node has, "UUID:seqno" as the cluster counts. Throws
/// QuiesceError when the server has not left the cluster's flow control, for then it goes on to apply what others
/// write.
[[nodiscard]] std::string paused_at(Session& session, const Deadline& deadline);

/// After the release: the node's state when it is "Synced" again, or at the deadline. Throws SessionError.
[[nodiscard]] std::string wait_until_synced(Session& session, const Deadline& deadline);

}  // namespace stillpoint::mysql
