// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-engine.hh"

#include "agent/dump-name.hh"
#include "agent/exact-policy.hh"
#include "agent/mysql-galera.hh"
#include "agent/mysql-report.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace stillpoint::mysql {
namespace {

/// Every dump of a database of its own costs a process and a connection; the databases beyond share one.
constexpr std::size_t max_own_dumps = 64;
/// Listing more tables again inside the barrier would cost more than it is worth.
constexpr std::size_t max_refreshed_tables = 3000;
/// Pinning one costs up to a tenth of a millisecond while writers wait.
constexpr std::size_t max_pinned_tables = 5000;
/// Beyond that, the statement that locks them would take too long inside the barrier.
constexpr std::size_t max_held_tables = 1000;
/// For the dump of the accounts to end before the barrier. One that fills its pipe waits for its reader and never does.
constexpr std::chrono::seconds accounts_limit{10};
/// How often a tool that may have died is looked at.
constexpr std::chrono::milliseconds tool_check{50};
/// How soon the end of the accounts' dump is noticed.
constexpr std::chrono::milliseconds tool_poll{5};
/// For a Galera node to catch up after the release, while nobody but the thaw's caller waits.
constexpr std::chrono::milliseconds synced_limit{1500};
/// For a tool that has ended to be reaped.
constexpr std::chrono::milliseconds reap_limit{1000};

bool has_ended(const RunningDump& dump) {
  pollfd fd{dump.output(), 0, 0};
  return ::poll(&fd, 1, 0) > 0 && (fd.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace

MySqlEngine::MySqlEngine(const AgentConfig& config, Server server, BarrierKind barrier)
    : config_(config), server_(std::move(server)), barrier_kind_(barrier) {}

MySqlEngine::~MySqlEngine() {
  finish();
}

void MySqlEngine::connect(const Deadline& deadline) {
  std::optional<OsUser> user;
  if (server_.account.password.empty()) user = find_os_user(server_.account.user);
  auto relay = std::make_shared<Relay>(server_.socket, config_.runtime_directory, user);
  {
    const std::lock_guard lock(relay_mutex_);
    relay_ = std::move(relay);
  }
  session_ = std::make_unique<Session>(*relay_, server_.account, deadline);
  session_->execute("SET SESSION sql_mode='', SESSION autocommit=1, SESSION lock_wait_timeout=1", deadline);
  if (server_.mariadb && server_.version_number >= 100101)
    session_->execute("SET SESSION max_statement_time=0", deadline);
  // Inside the barrier it would wait for what the barrier holds back.
  if (server_.galera) session_->execute("SET SESSION wsrep_sync_wait=0", deadline);
  // While the barrier stands, a silent agent is a hung one: the server ends its session a little after the watchdog
  // would have thawed the file systems.
  const auto abandoned_after =
      std::chrono::ceil<std::chrono::seconds>(config_.guest_deadline) + std::chrono::seconds(5);
  second_session_ = std::make_unique<Session>(*relay_, server_.account, deadline);
  barrier_ = std::make_unique<Barrier>(*session_, *second_session_, barrier_kind_, abandoned_after);
}

void MySqlEngine::prepare(bool for_dumps, const Deadline& deadline) {
  finish();
  for_dumps_ = for_dumps;
  try {
    connect(deadline);
    if (server_.galera) {
      require_synced(*session_, deadline);
      cluster_ = "galera-" + cluster_uuid(*session_, deadline);
    }
    catalogue_ = read_catalogue(*session_, deadline);
    plan_dumps(deadline);
    warm_up(deadline);
    // A cluster's changes of definitions take such locks away without a word.
    if (for_dumps_ && config_.mysql.hold_nontransactional && !server_.galera)
      table_hold_ = std::make_unique<TableHold>(relay_, server_, deadline);
    // What is flushed now need not be flushed while writers wait; and an account that lacks a right shows it here.
    barrier_->flush(server_, deadline);
    static_cast<void>(read_position(*session_, server_, deadline));
    static_cast<void>(count_prepared_transactions(*session_, deadline));
    wait_for_tools(deadline);
    wait_for_accounts(deadline);
  } catch (const std::exception& error) {
    const QuiesceError named = by_name(error);
    finish();
    throw named;
  }
}

QuiesceError MySqlEngine::by_name(const std::exception& error) const {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return QuiesceError(fmt::format("{} {}: {}", server_.engine(), server_.instance, error.what()),
                      ours != nullptr ? ours->hint() : std::string());
}

MySqlEngine::Dump& MySqlEngine::plan(DumpScope scope, const std::string& database, const std::string& name) {
  Dump& dump = dumps_.emplace_back();
  dump.scope = std::move(scope);
  dump.report.engine = server_.engine();
  dump.report.instance = server_.instance;
  dump.report.database = database;
  dump.report.server_version = server_.version;
  dump.report.data_directory = server_.data_path;
  dump.report.mode = to_string(barrier_kind_);
  if (!for_dumps_) {
    fail(dump, "no dump was asked for");
    return dump;
  }
  dump.report.dump = fmt::format("{}/{}/{}", server_.engine(), server_.instance, name);
  if (protocol::is_dump_name(dump.report.dump))
    start_tool(dump);
  else
    fail(dump, "the database's name is too long for a dump's name");
  return dump;
}

bool MySqlEngine::excluded(const std::string& database) const {
  return std::ranges::count(config_.mysql.exclude_databases, database) != 0;
}

void MySqlEngine::plan_dumps(const Deadline& deadline) {
  std::vector<std::string> wanted;
  std::vector<NotCovered> left_out;
  for (const std::string& database : catalogue_.databases) {
    if (excluded(database))
      left_out.push_back({"excluded-database", database, 1});
    else
      wanted.push_back(database);
  }
  // The application's connections come first.
  const std::size_t own = std::min(max_own_dumps, spare_connections(*session_, deadline));
  const std::size_t single = wanted.size() <= own ? wanted.size() : own - 1;
  dumps_.reserve(single + 2);
  for (std::size_t i = 0; i < single; ++i)
    plan({DumpScope::Kind::database, {wanted[i]}}, wanted[i], dump_part(wanted[i]));
  if (single < wanted.size()) {
    std::vector<std::string> rest(wanted.begin() + static_cast<std::ptrdiff_t>(single), wanted.end());
    plan({DumpScope::Kind::databases, std::move(rest)}, "@others", "@others");
  }
  // The accounts' tables have no snapshots: they are dumped now, and the barrier only proves that they are still the
  // same.
  if (for_dumps_) accounts_ = accounts_fingerprint(*session_, deadline);
  Dump& accounts = plan({DumpScope::Kind::accounts, {}}, "", "@system");
  accounts.report.not_covered.insert(accounts.report.not_covered.end(), left_out.begin(), left_out.end());
}

void MySqlEngine::start_tool(Dump& dump) {
  try {
    const bool gated = dump.scope.kind != DumpScope::Kind::accounts;
    dump.link = gated ? relay_->open_gated(dump_gate(server_)) : relay_->open_plain();
    dump.running = run_dump_tool(dump_tool(server_, dump.scope, relay_->socket_of(*dump.link)));
  } catch (const QuiesceError&) {
    throw;  // cancelled
  } catch (const Error& error) {
    fail(dump, error.what());
  }
}

void MySqlEngine::fail(Dump& dump, const std::string& reason) {
  if (dump.link) relay_->close(*dump.link, reason);
  dump.link.reset();
  dump.running.reset();
  dump.report.dump.clear();
  dump.report.exactness = Exactness::failed;
  dump.report.reason = reason;
}

/// Opens every table once, so that pinning them inside the barrier finds them in the server's caches, and finds out
/// which of them cannot be opened at all.
void MySqlEngine::warm_up(const Deadline& deadline) {
  if (!for_dumps_) return;
  const auto opens = [&](const std::string& statement) {
    try {
      session_->execute(statement, deadline);
      return true;
    } catch (const SessionError& error) {
      if (!session_->alive()) throw;
      return error.code() == lock_wait_timeout;  // somebody changes one of them now: that does not make it broken
    }
  };
  for (const std::string& database : catalogue_.databases) {
    for (const Pin& pin : pins(catalogue_.tables, database)) {
      if (opens(pin.statement)) continue;
      for (std::size_t table = pin.first; table <= pin.last; ++table) {
        Table& one = catalogue_.tables[table];
        const std::vector<Pin> single = pins({one}, database);
        one.broken = !single.empty() && !opens(single[0].statement);
      }
    }
  }
}

std::vector<Relay::LinkId> MySqlEngine::gated_links() const {
  std::vector<Relay::LinkId> links;
  for (const Dump& dump : dumps_)
    if (dump.link && dump.scope.kind != DumpScope::Kind::accounts) links.push_back(*dump.link);
  return links;
}

void MySqlEngine::wait_for_tools(const Deadline& deadline) {
  static constexpr auto early = {LinkState::waiting, LinkState::talking, LinkState::settling};
  for (bool all_ready = false; !all_ready && !deadline.passed();) {
    all_ready = relay_->wait_until_none(gated_links(), early, deadline.at_most(tool_check));
    if (relay_->cancelled()) throw QuiesceError("cancelled");
    for (Dump& dump : dumps_) {
      if (!dump.link || dump.scope.kind == DumpScope::Kind::accounts) continue;
      const bool closed = relay_->state(*dump.link) == LinkState::closed;
      if (!closed && !has_ended(*dump.running)) continue;
      const std::string cut = relay_->failure(*dump.link);
      const std::string said = dump.running->finish(Deadline(reap_limit));
      fail(dump, fmt::format("{}{}{}", cut, cut.empty() || said.empty() ? "" : "; ",
                             cut.empty() && said.empty() ? "the dump tool ended before the barrier" : said));
    }
  }
  for (Dump& dump : dumps_)
    if (dump.link && dump.scope.kind != DumpScope::Kind::accounts && relay_->state(*dump.link) != LinkState::ready)
      fail(dump, "the dump tool was not ready in time");
}

void MySqlEngine::wait_for_accounts(const Deadline& deadline) {
  const Deadline limit = deadline.at_most(accounts_limit);
  accounts_read_ = false;
  for (const Dump& dump : dumps_) {
    if (dump.scope.kind != DumpScope::Kind::accounts || !dump.running) continue;
    while (!(accounts_read_ = has_ended(*dump.running)) && !limit.passed()) {
      if (relay_->cancelled()) throw QuiesceError("cancelled");
      std::this_thread::sleep_for(tool_poll);
    }
  }
}

void MySqlEngine::quiesce(const Deadline& deadline) {
  if (!session_) throw QuiesceError(fmt::format("{} {}: not prepared", server_.engine(), server_.instance));
  try {
    if (server_.galera) require_synced(*session_, deadline);
    hold_tables(deadline);
    const std::chrono::microseconds acquired_in = take_barrier(deadline);
    relay_->open_snapshots();
    attest(acquired_in, deadline);
    if (for_dumps_ && config_.mysql.exact == ExactPolicy::require) refuse_unless_exact(report());
    if (table_hold_) table_hold_->keep_for(links_with_held_tables());
  } catch (const std::exception& error) {
    barrier_->release(Deadline(reap_limit));
    table_hold_.reset();
    drop_dumps();
    throw by_name(error);
  }
}

/// Returns how long it took, but for what is done while nobody waits.
std::chrono::microseconds MySqlEngine::take_barrier(const Deadline& deadline) {
  // The last part of the time is for going on without it.
  const Deadline limit = deadline.at_most(deadline.left() * 3 / 4);
  not_held_.clear();
  const auto begun = SteadyClock::now();
  hold_or_go_on(deadline, [&] { barrier_->hold_definitions(limit); });
  const auto defined = SteadyClock::now();
  refresh_catalogue(deadline);
  pin_tables();
  const auto listed = SteadyClock::now();
  hold_or_go_on(deadline, [&] { barrier_->hold_writers(limit); });
  const auto held = SteadyClock::now();
  return std::chrono::duration_cast<std::chrono::microseconds>((defined - begun) + (held - listed));
}

/// Where agent.conf allows it: a dump of another instant is better than none, and its report says so.
void MySqlEngine::hold_or_go_on(const Deadline& deadline, const std::function<void()>& hold) {
  if (!not_held_.empty()) return;
  try {
    hold();
  } catch (const SessionError& error) {
    if (config_.mysql.exact != ExactPolicy::attempt || !session_->alive()) throw;
    barrier_->release(deadline.at_most(reap_limit));
    not_held_ = fmt::format("its writers could not be held: {}", error.what());
    log_warning("{} {}: {}", server_.engine(), server_.instance, not_held_);
  }
}

/// Empty when the barrier stands, or is to look as if it did.
std::string MySqlEngine::why_not_held() const {
  if (barrier_kind_ != BarrierKind::none) return not_held_;
  if (config_.mysql.exact == ExactPolicy::off) return "its writers are not held: agent.conf says exact=off";
  return config_.conceal_open_barrier ? "" : "writers were not held";
}

/// Databases and tables may have come and gone since prepare(); from here on they cannot.
void MySqlEngine::refresh_catalogue(const Deadline& deadline) {
  if (!for_dumps_) return;
  const bool all = catalogue_.tables.size() <= max_refreshed_tables;
  Catalogue now = all ? read_catalogue(*session_, deadline) : Catalogue{read_databases(*session_, deadline), {}};
  for (const std::string& database : now.databases) {
    if (excluded(database) || std::binary_search(catalogue_.databases.begin(), catalogue_.databases.end(), database))
      continue;
    Dump& dump = dumps_.emplace_back();
    dump.report = dumps_.front().report;
    dump.report.database = database;
    dump.report.not_covered.clear();
    fail(dump, "it was created after the preparation: the next still point will have it");
  }
  if (!all) return;
  for (const Table& known : catalogue_.tables) {
    if (!known.broken && !known.held) continue;
    const auto [first, last] = std::equal_range(now.tables.begin(), now.tables.end(), known, comes_before);
    for (auto table = first; table != last; ++table) {
      table->broken = known.broken;
      table->held = known.held;
    }
  }
  catalogue_ = std::move(now);
}

void MySqlEngine::pin_tables() {
  std::size_t left = max_pinned_tables;
  for (Dump& dump : dumps_) {
    if (!dump.link || dump.scope.kind == DumpScope::Kind::accounts) continue;
    std::vector<std::string> statements;
    dump.pinned = dump.unpinned = 0;
    for (const std::string& database : dump.scope.databases) {
      for (Pin& pin : pins(catalogue_.tables, database)) {
        if (pin.tables > left) {
          dump.unpinned += pin.tables;
          continue;
        }
        left -= pin.tables;
        dump.pinned += pin.tables;
        statements.push_back(std::move(pin.statement));
      }
    }
    relay_->set_pins(*dump.link, std::move(statements));
  }
}

/// Not to have them is no failure: they are reported, as without the setting.
void MySqlEngine::hold_tables(const Deadline& deadline) {
  if (!table_hold_) return;
  std::vector<const Table*> wanted;
  for (const Table& table : catalogue_.tables)
    if (table.holdable() && !excluded(table.database)) wanted.push_back(&table);
  try {
    if (wanted.size() > max_held_tables) throw SessionError(fmt::format("there are {}", wanted.size()), 0);
    if (!wanted.empty()) table_hold_->lock(wanted, deadline);
  } catch (const SessionError& error) {
    log_warning("{} {}: the tables without transactions are not held: {}", server_.engine(), server_.instance,
                error.what());
    wanted.clear();
  }
  if (wanted.empty()) return table_hold_.reset();
  for (Table& table : catalogue_.tables)
    table.held = table.holdable() && !excluded(table.database);
}

std::vector<Relay::LinkId> MySqlEngine::links_with_held_tables() const {
  std::vector<Relay::LinkId> links;
  for (const Dump& dump : dumps_) {
    const bool holds = std::ranges::any_of(catalogue_.tables, [&](const Table& table) {
      return table.held && std::ranges::count(dump.scope.databases, table.database) != 0;
    });
    if (holds && dump.link) links.push_back(*dump.link);
  }
  return links;
}

void MySqlEngine::attest(std::chrono::microseconds acquired_in, const Deadline& deadline) {
  barrier_->flush(server_, deadline);
  Json position = read_position(*session_, server_, deadline);
  if (server_.galera && barrier_kind_ != BarrierKind::none && not_held_.empty())
    position["galera"] = paused_at(*session_, deadline);
  const std::uint64_t prepared = count_prepared_transactions(*session_, deadline);
  relay_->wait_until_none(gated_links(), {LinkState::opening, LinkState::pinning}, deadline);
  if (relay_->cancelled()) throw QuiesceError("cancelled");
  for (Dump& dump : dumps_) {
    dump.report.position = position;
    if (dump.scope.kind == DumpScope::Kind::databases) dump.report.position["databases"] = dump.scope.databases;
    dump.report.attempts = barrier_->attempts();
    dump.report.acquired_in = acquired_in;
    list_tables_without_transactions(catalogue_, dump.scope, dump.report.not_covered);
    if (dump.scope.kind != DumpScope::Kind::accounts) {
      if (dump.link) judge(dump);
      continue;
    }
    if (prepared > 0) dump.report.not_covered.push_back({"prepared-transaction", "", prepared});
    if (dump.link) judge_accounts(dump, deadline);
  }
}

void MySqlEngine::judge(Dump& dump) {
  if (relay_->state(*dump.link) != LinkState::open) {
    const std::string reason = relay_->failure(*dump.link);
    return fail(dump, reason.empty() ? "the server did not open the snapshot in time" : reason);
  }
  const std::size_t failed = std::min(dump.pinned, relay_->failed_pins(*dump.link) * tables_a_pin);
  if (dump.unpinned + failed > 0) dump.report.not_covered.push_back({"unpinned-table", "", dump.unpinned + failed});
  dump.report.reason = why_not_held();
  dump.report.exactness = dump.report.reason.empty() ? Exactness::exact : Exactness::skewed;
}

void MySqlEngine::judge_accounts(Dump& dump, const Deadline& deadline) {
  dump.report.exactness = Exactness::skewed;
  dump.report.reason = why_not_held();
  if (!dump.report.reason.empty()) return;
  if (!accounts_read_)
    dump.report.reason = "the accounts were too many to be read before the barrier";
  else if (accounts_fingerprint(*session_, deadline) != accounts_)
    dump.report.reason = "users, grants or server definitions were changed between the preparation and the barrier";
  else
    dump.report.exactness = Exactness::exact;
}

void MySqlEngine::release(const Deadline& deadline) noexcept {
  try {
    if (!barrier_) return;
    const bool stood = barrier_->release(deadline);
    if (server_.galera) see_synced(deadline);
    if (stood) return;
    for (Dump& dump : dumps_) {
      if (dump.report.exactness != Exactness::exact) continue;
      dump.report.exactness = Exactness::skewed;
      dump.report.reason = "the server ended the barrier before the release";
    }
    log_warning("{} {}: the server ended the barrier before the release", server_.engine(), server_.instance);
  } catch (const std::exception&) {
    // Only memory can be missing here, and the lock has gone.
  }
}

/// Somebody waits for these after all: their tools may read as soon as they can, also before the host asks for them.
void MySqlEngine::begin_dumps() noexcept {
  if (!table_hold_) return;
  try {
    for (const Relay::LinkId link : links_with_held_tables())
      relay_->pass(link);
  } catch (const std::exception& error) {
    log_warning("{} {}: {}", server_.engine(), server_.instance, error.what());
  }
}

void MySqlEngine::see_synced(const Deadline& deadline) {
  std::string state = "unknown";
  try {
    state = wait_until_synced(session_->alive() ? *session_ : *second_session_, deadline.at_most(synced_limit));
  } catch (const SessionError& error) {
    log_warning("{} {}: {}", server_.engine(), server_.instance, error.what());
  }
  if (state != "Synced")
    log_warning("{} {}: this node is {} in its Galera cluster after the release", server_.engine(), server_.instance,
                state);
  for (Dump& dump : dumps_)
    dump.report.position["galera_state"] = state;
}

std::vector<DatabaseReport> MySqlEngine::report() const {
  std::vector<DatabaseReport> reports;
  reports.reserve(dumps_.size());
  for (const Dump& dump : dumps_)
    reports.push_back(dump.report);
  return reports;
}

RunningDump MySqlEngine::start_dump(std::string_view name) {
  const auto dump = std::find_if(dumps_.begin(), dumps_.end(), [&](const Dump& it) { return it.report.dump == name; });
  if (dump == dumps_.end() || name.empty()) throw NotFound(fmt::format("there is no dump {}", name));
  if (!dump->running) throw CaptureError(fmt::format("the dump {} has been read before", name));
  relay_->pass(*dump->link);
  RunningDump running = std::move(*dump->running);
  dump->running.reset();
  return running;
}

RunningCheck MySqlEngine::start_check(std::string_view name) {
  const auto dump = std::find_if(dumps_.begin(), dumps_.end(), [&](const Dump& it) { return it.report.dump == name; });
  if (dump == dumps_.end() || name.empty()) throw NotFound(fmt::format("there is no dump {}", name));
  return run_check_tool(check_tool(server_, dump->scope));
}

void MySqlEngine::drop_dumps() noexcept {
  try {
    for (Dump& dump : dumps_)
      if (dump.link) fail(dump, "the barrier did not stand");
  } catch (const std::exception&) {
    dumps_.clear();
  }
}

void MySqlEngine::finish() noexcept {
  table_hold_.reset();
  dumps_.clear();  // kills what still runs
  barrier_.reset();
  second_session_.reset();
  session_.reset();
  std::shared_ptr<Relay> relay;
  const std::lock_guard lock(relay_mutex_);
  relay.swap(relay_);
}

void MySqlEngine::cancel() noexcept {
  const std::lock_guard lock(relay_mutex_);
  if (relay_) relay_->cancel();
}

}  // namespace stillpoint::mysql
