// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-table-hold.hh"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace stillpoint::mysql {
namespace {

/// For who uses these tables to end; whoever comes later waits as long. In whole seconds, as MySQL wants it.
constexpr std::chrono::seconds lock_wait{1};
/// How soon a lost lock, or that nobody needs it any more, is noticed.
constexpr std::chrono::milliseconds check_interval{200};

}  // namespace

TableHold::TableHold(std::shared_ptr<Relay> relay, const Server& server, const Deadline& deadline)
    : relay_(std::move(relay)), session_(*relay_, server.account, deadline) {
  session_.execute(fmt::format("SET SESSION wait_timeout=86400, SESSION lock_wait_timeout={}", lock_wait.count()),
                   deadline);
}

TableHold::~TableHold() {
  session_.abandon();
}

void TableHold::lock(const std::vector<const Table*>& tables, const Deadline& deadline) {
  // Not LOCK TABLES: who waits to write to such a table then goes before the dump that wants to read it.
  std::string statement;
  for (const Table* table : tables)
    statement += fmt::format("{}{}.{}", statement.empty() ? "FLUSH NO_WRITE_TO_BINLOG TABLES " : ", ",
                             quote_identifier(table->database), quote_identifier(table->name));
  session_.execute(statement + " WITH READ LOCK",
                   deadline.at_most(std::min<std::chrono::milliseconds>(lock_wait, deadline.left() / 2)));
}

void TableHold::keep_for(std::vector<Relay::LinkId> links) {
  watcher_ = std::jthread([this, links = std::move(links)](const std::stop_token& stop) { watch(stop, links); });
}

void TableHold::watch(const std::stop_token& stop, const std::vector<Relay::LinkId>& links) {
  while (!stop.stop_requested() && !relay_->cancelled()) {
    if (relay_->wait_until_none(links, {LinkState::open, LinkState::passing}, Deadline(check_interval))) break;
    if (session_.alive()) continue;
    for (const Relay::LinkId link : links)
      relay_->close(link, "the server gave up the lock on the tables without transactions");
  }
  session_.abandon();
}

}  // namespace stillpoint::mysql
