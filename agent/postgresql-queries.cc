// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-queries.hh"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace stillpoint::postgresql {

namespace {
constexpr int version_10 = 100000;  // renamed xlog to wal, brought txid_status()
}

std::string session_settings(int server_version, std::chrono::milliseconds idle) {
  // deadlock_timeout: shorter than the applications', so that we are the victim and never they.
  // lc_messages: the detail of a deadlock is read. synchronous_commit: standbys are not waited for.
  std::string settings = fmt::format(
      "SET search_path = pg_catalog; SET lc_messages = 'C'; SET client_min_messages = error; SET deadlock_timeout = "
      "10; "
      "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = {}; "
      "SET default_transaction_read_only = off; SET synchronous_commit = local; "
      "SET default_transaction_isolation = 'read committed'",
      idle.count());
  if (server_version >= 110000) settings += "; SET jit = off";
  if (server_version >= 140000) settings += "; SET idle_session_timeout = 0";
  return settings;
}

std::string globals_fingerprint(int server_version) {
  std::string query =
      "SELECT md5(coalesce(string_agg(r, chr(10) ORDER BY r), '')) FROM ("
      "SELECT 'a' || t::text AS r FROM pg_authid t UNION ALL SELECT 'm' || t::text FROM pg_auth_members t "
      "UNION ALL SELECT 's' || t::text FROM pg_db_role_setting t UNION ALL SELECT 't' || t::text FROM pg_tablespace t "
      "UNION ALL SELECT 'd' || t::text FROM pg_shdescription t UNION ALL SELECT 'l' || t::text FROM pg_shseclabel t";
  if (server_version >= 150000) query += " UNION ALL SELECT 'p' || t::text FROM pg_parameter_acl t";
  return query + ") AS all_rows";
}

std::string catalogue_fingerprint(std::span<const std::string> catalogues) {
  std::string query = "SELECT md5(string_agg(f, ',' ORDER BY n)) FROM (";
  for (std::size_t i = 0; i < catalogues.size(); ++i)
    query += fmt::format(
        "{}SELECT {} AS n, count(*) || ':' || coalesce(sum(hashtext(xmin::text || ctid::text)::bigint), 0) AS f "
        "FROM {}",
        i == 0 ? "" : " UNION ALL ", i, catalogues[i]);
  return query + ") AS all_catalogues";
}

std::string lock_tables(std::span<const std::string> names, std::string_view mode) {
  if (names.empty()) return {};
  // ONLY: partitions and children are named themselves, in our order.
  return fmt::format("LOCK TABLE ONLY {} IN {} MODE; ", fmt::join(names, ", ONLY "), mode);
}

std::string local_limits(std::chrono::milliseconds lock, std::chrono::milliseconds statement) {
  return fmt::format("SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; ", lock.count(),
                     statement.count());
}

std::string sequence_values(std::span<const std::string> names) {
  constexpr std::size_t per_statement = 200;
  std::string query;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i != 0) query += i % per_statement == 0 ? "; " : " UNION ALL ";
    query += fmt::format("SELECT {}, last_value, is_called FROM {}", i, names[i]);
  }
  return query;
}

std::string position(int server_version, bool standby) {
  if (standby) return server_version >= version_10 ? "pg_last_wal_replay_lsn()" : "pg_last_xlog_replay_location()";
  return server_version >= version_10 ? "pg_current_wal_insert_lsn()" : "pg_current_xlog_insert_location()";
}

std::string flushed(int server_version, std::string_view lsn) {
  return fmt::format("SELECT {} >= '{}'::pg_lsn",
                     server_version >= version_10 ? "pg_current_wal_flush_lsn()" : "pg_current_xlog_flush_location()",
                     lsn);
}

std::string committed(int server_version, std::span<const std::string> transactions) {
  if (server_version >= version_10)
    return fmt::format("SELECT x FROM unnest('{{{}}}'::bigint[]) AS x WHERE txid_status(x) = 'committed'",
                       fmt::join(transactions, ","));
  return fmt::format(
      "SELECT x FROM unnest('{{{}}}'::bigint[]) AS x WHERE x NOT IN "
      "(SELECT txid_snapshot_xip(txid_current_snapshot())) AND x < txid_snapshot_xmax(txid_current_snapshot())",
      fmt::join(transactions, ","));
}

}  // namespace stillpoint::postgresql
