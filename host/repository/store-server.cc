// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/store-server.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/append-only-store.hh"
#include "host/repository/chunk-id.hh"
#include "host/repository/directory-store.hh"
#include "host/repository/store-wire.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

namespace request = store_wire::request;

/// More than any client of ours has open at once.
constexpr std::size_t most_open = 1024;
constexpr std::size_t longest_name = 1024;

/// What lies in a store as an object. Trees do not: they hold the links of guests, which lead anywhere.
constexpr std::array<std::string_view, 16> kinds{
    "config", "config.copy", "features", "packs",   "index",      "locks", "manifests", "doomed",
    "waits",  "protected",   "keys",     "reserve", "quarantine", "tmp",   "drills",    "network"};

/// The name of something below the store's root.
bool is_object_name(std::string_view name) {
  if (name.size() > longest_name || name.find('\0') != std::string_view::npos) return false;
  if (std::ranges::find(kinds, name.substr(0, name.find('/'))) == kinds.end()) return false;
  while (true) {
    const std::size_t slash = name.find('/');
    const std::string_view part = name.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    name.remove_prefix(slash + 1);
  }
}

std::string name_of(const Json& head, std::string_view field) {
  std::string name = json_string(head, field, longest_name);
  if (!is_object_name(name)) throw ProtocolError("what is asked for is no object's name");
  return name;
}

/// What a client has begun to write. What goes wrong is told when it commits: nothing else of it has an answer.
struct Writing {
  std::unique_ptr<ObjectWriter> object;
  std::optional<Error> failure;
};

/// "cluster-1f" or "keys": a lock may have no other name, for it lies beside the leases.
bool is_lock_name(std::string_view name) {
  constexpr std::string_view cluster = "cluster-";
  if (name == "keys") return true;
  std::array<std::byte, 1> number{};
  return name.starts_with(cluster) && hex_to_bytes(name.substr(cluster.size()), number);
}

/// Without the slashes at its end.
std::filesystem::path plain(const std::filesystem::path& path) {
  const std::filesystem::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

class Server {
 public:
  Server(store_wire::Channel& channel, const StoreServerOptions& options) : channel_(channel), options_(options) {}

  void run() {
    while (const std::optional<store_wire::Message> message = channel_.receive())
      serve(*message);
  }

 private:
  void serve(const store_wire::Message& message);
  void open_store(const Json& head);
  Json answer(std::string_view what, const store_wire::Message& message, std::vector<std::byte>& body);
  void begin_writing(const Json& head);
  void append(const store_wire::Message& message);
  void commit(std::uint64_t number);
  void list(std::uint64_t call, const std::string& prefix);
  Store& store() {
    if (!store_) throw ProtocolError("the conversation does not begin with a greeting");
    return *store_;
  }

  /// So that a client's numbers cannot use up our memory.
  template <typename T>
  T& add(std::map<std::uint64_t, T>& all, std::uint64_t number, T value) {
    if (all.size() >= most_open) throw ProtocolError("too many objects are open");
    const auto [it, is_new] = all.emplace(number, std::move(value));
    if (!is_new) throw ProtocolError("an object is opened twice");
    return it->second;
  }

  store_wire::Channel& channel_;
  const StoreServerOptions& options_;
  std::unique_ptr<Store> store_;
  std::map<std::uint64_t, Writing> writing_;
  std::map<std::uint64_t, std::unique_ptr<ObjectReader>> reading_;
  std::map<std::uint64_t, std::unique_ptr<StoreLock>> locks_;
};

void Server::serve(const store_wire::Message& message) {
  const std::string what = json_string(message.head, "do", 64);
  if (what == request::write) return begin_writing(message.head);
  if (what == request::append) return append(message);
  const auto number = [&message] { return json_uint(message.head, "object"); };
  if (what == request::drop) return static_cast<void>(writing_.erase(number()));
  if (what == request::close) return static_cast<void>(reading_.erase(number()));
  if (what == request::unlock) return static_cast<void>(locks_.erase(number()));

  const std::uint64_t call = json_uint(message.head, "call");
  try {
    if (what == request::list) return list(call, name_of(message.head, "prefix"));
    std::vector<std::byte> body;
    Json head = answer(what, message, body);
    head["call"] = call;
    channel_.send(head, body);
  } catch (const ProtocolError&) {
    throw;
  } catch (const Error& error) {
    channel_.send({{"call", call},
                   {"error", static_cast<int>(error.exit_code())},
                   {"message", error.what()},
                   {"hint", error.hint()}});
  }
}

Json Server::answer(std::string_view what, const store_wire::Message& message, std::vector<std::byte>& body) {
  const Json& head = message.head;
  if (what == request::hello) {
    open_store(head);
    return {
        {"path", store().url()}, {"visibility", store().visibility().count()}, {"append_only", options_.append_only}};
  }
  const auto number = [&head] { return json_uint(head, "object"); };
  if (what == request::commit) {
    commit(number());
  } else if (what == request::open) {
    return {{"size", add(reading_, number(), store().reader(name_of(head, "name")))->size()}};
  } else if (what == request::read) {
    const auto found = reading_.find(number());
    if (found == reading_.end()) throw ProtocolError("an object is read that is not open");
    body.resize(json_uint(head, "length", store_wire::max_body_bytes));
    found->second->read(json_uint(head, "offset"), body);
  } else if (what == request::exists) {
    return {{"exists", store().exists(name_of(head, "name"))}};
  } else if (what == request::remove) {
    store().remove(name_of(head, "name"));
  } else if (what == request::work_under || what == request::drop_unfinished) {
    const std::string lease = json_string(head, "lease", 64);
    if (!is_id(lease)) throw ProtocolError("a lease is named otherwise");
    what == request::work_under ? store().work_under(lease) : store().drop_unfinished(lease);
  } else if (what == request::lock) {
    const std::string name = json_string(head, "name", longest_name);
    if (!is_lock_name(name)) throw ProtocolError("what is asked for is no lock's name");
    std::unique_ptr<StoreLock> lock = store().try_lock(name);
    if (!lock) return {{"locked", false}};
    add(locks_, number(), std::move(lock));
    return {{"locked", true}};
  } else {
    throw ProtocolError("the other side asks for what this version does not know");
  }
  return Json::object();
}

void Server::open_store(const Json& head) {
  if (store_) throw ProtocolError("a second greeting");
  if (json_uint(head, "version") != store_wire::version)
    throw ConfigError("the repository's machine speaks another version of the store's protocol",
                      "install the same version of stillpoint on both");
  const std::string access = json_string(head, "access", 16);
  const std::filesystem::path wanted = json_string(head, "path", 4096);
  if (plain(wanted) != plain(options_.path))
    throw ConfigError(fmt::format("this account serves {}, and not {}", options_.path.native(), wanted.native()),
                      fmt::format("name ssh://HOST{}", options_.path.native()));
  StoreAccess kind = StoreAccess::read;
  if (access == "create") {
    if (options_.append_only)
      throw ConfigError("the account may only add to a repository", "make the repository where it lies");
    kind = StoreAccess::create;
  } else if (access == "write") {
    kind = StoreAccess::write;
  }
  store_ = std::make_unique<DirectoryStore>(options_.path, kind);
  if (options_.append_only) store_ = std::make_unique<AppendOnlyStore>(std::move(store_), options_.domains);
}

void Server::begin_writing(const Json& head) {
  std::string name = name_of(head, "name");
  Writing& writing = add(writing_, json_uint(head, "object"), Writing{});
  try {
    writing.object = store().writer(std::move(name));
  } catch (const ProtocolError&) {
    throw;
  } catch (const Error& error) {
    writing.failure = error;
  }
}

void Server::append(const store_wire::Message& message) {
  const auto found = writing_.find(json_uint(message.head, "object"));
  if (found == writing_.end()) throw ProtocolError("an object is written that was not begun");
  Writing& writing = found->second;
  if (writing.failure) return;
  try {
    writing.object->append(message.body);
  } catch (const Error& error) {
    writing.failure = error;
    writing.object.reset();
  }
}

void Server::commit(std::uint64_t number) {
  const auto found = writing_.find(number);
  if (found == writing_.end()) throw ProtocolError("an object is committed that was not begun");
  const Writing writing = std::move(found->second);
  writing_.erase(found);
  if (writing.failure) throw Error(*writing.failure);
  writing.object->commit();
}

void Server::list(std::uint64_t call, const std::string& prefix) {
  std::string page;
  const auto send = [&](bool more) {
    channel_.send({{"call", call}, {"more", more}}, as_bytes(page));
    page.clear();
  };
  for (const ObjectInfo& object : store().list(prefix)) {
    const auto modified = std::chrono::duration_cast<std::chrono::seconds>(object.modified.time_since_epoch());
    // Whatever lies in the directory: a name that cannot be told apart from the next one is no object's.
    if (object.name.find('\n') != std::string::npos) continue;
    page += fmt::format("{} {} {}\n", object.size, modified.count(), object.name);
    if (page.size() > store_wire::max_body_bytes / 2) send(true);
  }
  send(false);
}

}  // namespace

void serve_store(int in, int out, const StoreServerOptions& options, std::stop_token stop) {
  store_wire::Channel channel(in, out, std::move(stop));
  Server(channel, options).run();
}

}  // namespace stillpoint
