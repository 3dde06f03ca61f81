// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/postgresql-text.hh"

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The statements that the agent sends. Each relies on search_path = pg_catalog, which the session's settings set.
namespace stillpoint::postgresql {

/// What every session of ours sets; `idle` is how long it may do nothing inside a transaction before the server ends
/// it, should the agent hang.
[[nodiscard]] std::string session_settings(int server_version, std::chrono::milliseconds idle);

/// Cluster facts: superuser, in recovery, deadlock_timeout in ms, server version in words, data directory.
inline constexpr std::string_view cluster_facts_query =
    "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(), "
    "(SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout'), current_setting('server_version'), "
    "current_setting('data_directory')";

/// From PostgreSQL 15 on: what a role that is no superuser lacks of what the agent does, in words; NULL for nothing.
inline constexpr std::string_view missing_rights_query =
    "SELECT string_agg(what, ', ') FROM ("
    "SELECT 'membership in ' || r AS what FROM unnest('{pg_read_all_data,pg_write_all_data,pg_checkpoint,pg_monitor}'"
    "::text[]) AS r WHERE NOT pg_has_role(r, 'USAGE') UNION ALL "
    "SELECT 'SET on parameter ' || p FROM unnest('{deadlock_timeout,lc_messages}'::text[]) AS p "
    "WHERE NOT has_parameter_privilege(p, 'SET')) AS missing";

/// How many connections applications could still open. (Only what serves a client has a port.)
inline constexpr std::string_view free_connections_query =
    "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - "
    "coalesce(current_setting('reserved_connections', true), '0')::int - "
    "(SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL)";

/// Name of every database, and whether it lets anybody in.
inline constexpr std::string_view databases_query =
    "SELECT datname, datallowconn FROM pg_database WHERE NOT datistemplate ORDER BY oid";

/// Everything that a barrier has to hold or to read: oid, quoted name, kind, persistence, whether it is a system
/// catalogue. Catalogues come last: applications lock them briefly and after their tables. The optimiser's statistics
/// are left out: no dump shows them, and autovacuum writes them.
inline constexpr std::string_view relations_query =
    "SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind, c.relpersistence, "
    "n.nspname = 'pg_catalog' "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' "
    "AND n.nspname !~ '^pg_toast' "
    "AND (n.nspname <> 'pg_catalog' OR (c.relkind = 'r' AND c.oid < 16384 "
    "AND c.relname NOT IN ('pg_statistic', 'pg_statistic_ext_data'))) "
    "ORDER BY n.nspname = 'pg_catalog', c.oid";

/// Transactions of this database that have written something and not ended, as 64-bit numbers. The server shows 32 bits
/// of them: the rest is that of the nearest number to the snapshot's end.
inline constexpr std::string_view in_flight_query =
    "SELECT CASE WHEN x - e > 2147483648 THEN x - 4294967296 WHEN e - x > 2147483648 THEN x + 4294967296 ELSE x END "
    "FROM (SELECT (e >> 32 << 32) + xid AS x, e FROM "
    "(SELECT txid_snapshot_xmax(txid_current_snapshot()) AS e) AS s, "
    "(SELECT backend_xid::text::bigint AS xid FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_xid IS NOT NULL UNION ALL "
    "SELECT transaction::text::bigint FROM pg_prepared_xacts WHERE database = current_database()) AS t) AS u";

/// Prepared transactions of this database, and the relations where they hold locks that writers take (else NULL).
inline constexpr std::string_view prepared_transactions_query =
    "SELECT p.gid, l.relation FROM pg_prepared_xacts p "
    "LEFT JOIN pg_locks x ON x.locktype = 'transactionid' AND x.transactionid = p.transaction AND x.pid IS NULL "
    "LEFT JOIN pg_locks l ON l.virtualtransaction = x.virtualtransaction AND l.pid IS NULL "
    "AND l.locktype = 'relation' AND l.relation >= 16384 "
    "AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock') "
    "WHERE p.database = current_database()";

/// Who has held a lock that a barrier must wait for, longest first: relation's name, pid, application, seconds.
inline constexpr std::string_view blockers_query =
    "SELECT l.relation::regclass, a.pid, a.application_name, extract(epoch FROM now() - a.xact_start)::bigint "
    "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'relation' AND l.granted AND a.datname = current_database() AND l.pid <> pg_backend_pid() "
    "AND a.application_name <> 'stillpoint' "
    "AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock') ORDER BY a.xact_start LIMIT 1";

/// Who holds which table for writing now, over all databases: database, transaction, relation.
inline constexpr std::string_view holdings_query =
    "SELECT d.datname, l.virtualtransaction, l.relation FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
    "WHERE l.locktype = 'relation' AND l.granted AND l.relation >= 16384 "
    "AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";

/// Changes when a role, a membership, a setting of a role or a tablespace changes.
[[nodiscard]] std::string globals_fingerprint(int server_version);

/// Changes when a row of one of these catalogues does.
[[nodiscard]] std::string catalogue_fingerprint(std::span<const std::string> catalogues);

/// "LOCK TABLE ONLY a, ONLY b IN SHARE MODE; ", empty for no names.
[[nodiscard]] std::string lock_tables(std::span<const std::string> names, std::string_view mode);

/// "SET LOCAL lock_timeout = ...; SET LOCAL statement_timeout = ...; "
[[nodiscard]] std::string local_limits(std::chrono::milliseconds lock, std::chrono::milliseconds statement);

/// One statement for every 200 sequences: position in `names`, last_value, is_called.
[[nodiscard]] std::string sequence_values(std::span<const std::string> names);

/// Where the next record of the write-ahead log will be, or what a standby has replayed; NULL never.
[[nodiscard]] std::string position(int server_version, bool standby);

/// Whether the write-ahead log has been flushed up to `lsn`.
[[nodiscard]] std::string flushed(int server_version, std::string_view lsn);

/// Those of the transactions that have committed, or (9.6, which cannot tell) ended.
[[nodiscard]] std::string committed(int server_version, std::span<const std::string> transactions);

}  // namespace stillpoint::postgresql
