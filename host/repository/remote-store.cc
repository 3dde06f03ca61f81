// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/remote-store.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "common/program.hh"
#include "host/repository/store-wire.hh"

#include <fmt/format.h>
#include <glib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace stillpoint {

namespace request = store_wire::request;

namespace {

/// Of a list, in all its pages: some millions of names.
constexpr std::size_t max_list_bytes = std::size_t{256} << 20;
/// Of an object that is wanted as a whole: an index table, of some tens of millions of chunks.
constexpr std::uint64_t max_view_bytes = std::uint64_t{2} << 30;
constexpr std::chrono::seconds end_limit{5};
/// For one answer, however many others come before it.
constexpr std::chrono::hours longest_answer{1};

constexpr const char* form = "name it as ssh://[USER@]HOST[:PORT]/PATH";

/// For a shell that reads it as one word.
std::string quoted(const std::string& text) {
  const CPtr<char, g_free> word(::g_shell_quote(text.c_str()));
  return word.get();
}

std::vector<std::string> words_of(const char* text) {
  char** words = nullptr;
  if (::g_shell_parse_argv(text, nullptr, &words, nullptr) == FALSE)
    throw ConfigError("STILLPOINT_RSH is no command", "set it to a program like ssh, with its options");
  const CPtr<char*, g_strfreev> owner(words);
  return {words, words + ::g_strv_length(words)};
}

/// The command that connects us with the store's server.
Program connector(const RemoteAddress& address) {
  const char* chosen = std::getenv("STILLPOINT_RSH");
  std::vector<std::string> words = words_of(chosen != nullptr && *chosen != '\0' ? chosen : "ssh");
  const std::filesystem::path path = program_on_path(words.front());
  if (path.empty()) throw ConfigError(fmt::format("there is no program {}", words.front()), "install an ssh client");
  Program program;
  program.path = path;
  program.arguments.assign(words.begin() + 1, words.end());
  // Nobody is there to answer a question, and a dead line must be noticed.
  for (const char* option :
       {"-T", "-x", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"})
    program.arguments.emplace_back(option);
  if (!address.port.empty()) program.arguments.insert(program.arguments.end(), {"-p", address.port});
  if (!address.user.empty()) program.arguments.insert(program.arguments.end(), {"-l", address.user});
  program.arguments.insert(program.arguments.end(),
                           {"--", address.host, fmt::format("stillpoint store {}", quoted(address.path))});
  program.environment = own_environment();
  return program;
}

[[noreturn]] void throw_answer(const Json& head) {
  const std::string message = json_string(head, "message", store_wire::max_head_bytes);
  const std::string hint = json_string_or(head, "hint", "", store_wire::max_head_bytes);
  switch (static_cast<ExitCode>(json_uint(head, "error", 255))) {
    case ExitCode::configuration:
      throw ConfigError(message, hint);
    case ExitCode::not_found:
      throw NotFound(message, hint);
    case ExitCode::storage:
      throw StorageError(message, hint);
    case ExitCode::corruption:
      throw Corruption(message, hint);
    case ExitCode::locked:
      throw Locked(message, hint);
    default:
      throw Unreachable(message, hint);
  }
}

}  // namespace

RemoteAddress parse_remote_address(std::string_view rest) {
  RemoteAddress address;
  const std::size_t slash = rest.find('/');
  if (slash == std::string_view::npos) throw ConfigError("the repository's url names no path", form);
  address.path = rest.substr(slash);
  std::string_view machine = rest.substr(0, slash);
  if (const std::size_t at = machine.rfind('@'); at != std::string_view::npos) {
    address.user = machine.substr(0, at);
    machine.remove_prefix(at + 1);
    if (address.user.empty()) throw ConfigError("the repository's url names no user before its '@'", form);
  }
  // An IPv6 address stands in brackets.
  std::size_t colon = machine.rfind(':');
  if (machine.starts_with('[')) {
    const std::size_t end = machine.find(']');
    if (end == std::string_view::npos) throw ConfigError("the repository's url lacks a ']'", form);
    address.host = machine.substr(1, end - 1);
    machine.remove_prefix(end + 1);
    colon = machine.empty() ? std::string_view::npos : 0;
    if (!machine.empty() && machine.front() != ':') throw ConfigError("the repository's url is malformed", form);
  } else {
    address.host = machine.substr(0, colon);
  }
  if (colon != std::string_view::npos) {
    address.port = machine.substr(colon + 1);
    unsigned port = 0;
    const char* end = address.port.data() + address.port.size();
    const auto [rest_of_port, failure] = std::from_chars(address.port.data(), end, port);
    if (failure != std::errc() || rest_of_port != end || port == 0 || port > 65535)
      throw ConfigError(fmt::format("'{}' is no port", address.port), form);
  }
  const bool hostile = address.host.starts_with('-') || address.user.starts_with('-') ||
                       rest.find_first_of(std::string_view("\0\n", 2)) != std::string_view::npos;
  if (address.host.empty() || hostile) throw ConfigError("the repository's url names no host", form);
  return address;
}

namespace {

std::string to_url(const RemoteAddress& address) {
  const bool is_ipv6 = address.host.find(':') != std::string::npos;
  return fmt::format("ssh://{}{}{}{}{}", address.user.empty() ? "" : address.user + "@",
                     is_ipv6 ? "[" + address.host + "]" : address.host, address.port.empty() ? "" : ":", address.port,
                     address.path);
}

}  // namespace

/// One conversation, shared by all that use the store.
class RemoteStore::Connection {
 public:
  explicit Connection(const RemoteAddress& address) : host_(address.host) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno<Unreachable>("socketpair");
    ours_.reset(ends[0]);
    const UniqueFd theirs(ends[1]);
    try {
      program_ =
          RunningProgram(connector(address), {.output = theirs.get(), .errors = STDERR_FILENO, .input = theirs.get()});
    } catch (const CaptureError& error) {
      throw Unreachable(error.what(), error.hint());
    }
    channel_.emplace(ours_.get(), ours_.get());
    receiver_ = std::jthread([this] { receive(); });
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    // The server ends when nothing more comes, and with it the connector.
    ::shutdown(ours_.get(), SHUT_WR);
    static_cast<void>(program_.wait(Deadline(end_limit)));
    program_.end_group();
    ::shutdown(ours_.get(), SHUT_RDWR);
  }

  [[nodiscard]] std::uint64_t new_number() noexcept { return ++numbers_; }

  /// Without an answer.
  void tell(const Json& head, std::span<const std::byte> body = {}) {
    check();
    try {
      channel_->send(head, body);
    } catch (const Unreachable& error) {
      fail(error.what());
      check();
    }
  }

  /// The same for a destructor: what the server is not told it puts away when the connection ends.
  void tell_at_end(std::string_view what, std::uint64_t object) noexcept {
    try {
      tell({{"do", what}, {"object", object}});
    } catch (const std::exception& error) {
      log_debug("{}", error.what());
    }
  }

  /// Sends a request and waits for its answer. Throws what the other side had to say.
  store_wire::Message ask(std::string_view what, Json fields) {
    const std::uint64_t number = new_number();
    Json head{{"do", what}, {"call", number}};
    head.update(fields);
    {
      const std::scoped_lock lock(mutex_);
      waiting_.try_emplace(number);
    }
    Answer answer;
    try {
      tell(head);
      answer = await(number);
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      waiting_.erase(number);
      throw;
    }
    if (answer.message.head.contains("error")) throw_answer(answer.message.head);
    return std::move(answer.message);
  }

 private:
  struct Answer {
    store_wire::Message message;
    bool complete = false;
  };

  /// Answers come in the requests' order: while others come, this one is on its way, up to a limit of its own.
  Answer await(std::uint64_t number) {
    std::unique_lock lock(mutex_);
    const auto asked = SteadyClock::now();
    const auto answered = [&] { return failure_ || waiting_.at(number).complete; };
    for (;;) {
      const auto limit = std::min(std::max(heard_, asked) + store_wire::patience, asked + longest_answer);
      if (answered()) break;
      if (SteadyClock::now() >= limit) {
        lock.unlock();
        fail(fmt::format("no answer for {} s", store_wire::patience.count()));
        lock.lock();
        break;
      }
      changed_.wait_until(lock, limit);
    }
    if (!waiting_.at(number).complete) std::rethrow_exception(failure_);
    Answer answer = std::move(waiting_.at(number));
    waiting_.erase(number);
    return answer;
  }

  void receive() noexcept {
    try {
      while (std::optional<store_wire::Message> message = channel_->receive())
        take(std::move(*message));
      fail("");
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }

  void take(store_wire::Message message) {
    const std::scoped_lock lock(mutex_);
    heard_ = SteadyClock::now();
    const auto found = waiting_.find(json_uint(message.head, "call"));
    if (found == waiting_.end()) throw ProtocolError(fmt::format("{} answers what was not asked", host_));
    Answer& answer = found->second;
    std::vector<std::byte>& body = answer.message.body;
    if (body.size() + message.body.size() > max_list_bytes) throw ProtocolError("an answer without an end");
    if (body.empty())
      body = std::move(message.body);
    else
      body.insert(body.end(), message.body.begin(), message.body.end());
    answer.message.head = std::move(message.head);
    answer.complete = !json_bool_or(answer.message.head, "more", false);
    if (answer.complete) changed_.notify_all();
  }

  void fail(std::string_view why) noexcept {
    const std::scoped_lock lock(mutex_);
    // ssh's own words are on the terminal.
    if (!failure_)
      failure_ = std::make_exception_ptr(
          Unreachable(fmt::format("the connection to {} has ended{}{}", host_, why.empty() ? "" : ": ", why),
                      "see what ssh says of it, whether stillpoint is installed there"));
    changed_.notify_all();
  }

  void check() {
    const std::scoped_lock lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }

  std::string host_;
  UniqueFd ours_;
  RunningProgram program_;
  std::optional<store_wire::Channel> channel_;
  std::atomic<std::uint64_t> numbers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, Answer> waiting_;
  SteadyClock::time_point heard_ = SteadyClock::now();
  std::exception_ptr failure_;
  std::jthread receiver_;  ///< last: it ends before what it uses
};

class RemoteStore::Writer : public ObjectWriter {
 public:
  Writer(std::shared_ptr<Connection> connection, const std::string& name)
      : connection_(std::move(connection)), number_(connection_->new_number()) {
    connection_->tell({{"do", request::write}, {"object", number_}, {"name", name}});
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() override {
    if (!committed_) connection_->tell_at_end(request::drop, number_);
  }

  void append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const auto part = bytes.first(std::min(bytes.size(), store_wire::max_body_bytes));
      connection_->tell({{"do", request::append}, {"object", number_}}, part);
      bytes = bytes.subspan(part.size());
    }
  }

  void commit() override {
    committed_ = true;
    static_cast<void>(connection_->ask(request::commit, {{"object", number_}}));
  }

 private:
  std::shared_ptr<Connection> connection_;
  std::uint64_t number_;
  bool committed_ = false;
};

class RemoteStore::Reader : public ObjectReader {
 public:
  Reader(std::shared_ptr<Connection> connection, const std::string& name)
      : connection_(std::move(connection)), number_(connection_->new_number()) {
    size_ = json_uint(connection_->ask(request::open, {{"object", number_}, {"name", name}}).head, "size");
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() override { connection_->tell_at_end(request::close, number_); }

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void read(std::uint64_t offset, std::span<std::byte> buffer) override {
    while (!buffer.empty()) {
      const std::size_t length = std::min(buffer.size(), store_wire::max_body_bytes);
      const store_wire::Message answer =
          connection_->ask(request::read, {{"object", number_}, {"offset", offset}, {"length", length}});
      if (answer.body.size() != length) throw ProtocolError("the store's answer is of another length than asked for");
      std::memcpy(buffer.data(), answer.body.data(), length);
      buffer = buffer.subspan(length);
      offset += length;
    }
  }

 private:
  std::shared_ptr<Connection> connection_;
  std::uint64_t number_;
  std::uint64_t size_ = 0;
};

class RemoteStore::Lock : public StoreLock {
 public:
  Lock(std::shared_ptr<Connection> connection, std::uint64_t number)
      : connection_(std::move(connection)), number_(number) {}
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() override { connection_->tell_at_end(request::unlock, number_); }

 private:
  std::shared_ptr<Connection> connection_;
  std::uint64_t number_;
};

RemoteStore::RemoteStore(const RemoteAddress& address, StoreAccess access)
    : url_(to_url(address)), connection_(std::make_shared<Connection>(address)) {
  const char* word = access == StoreAccess::create ? "create" : access == StoreAccess::write ? "write" : "read";
  const Json head =
      connection_->ask(request::hello, {{"version", store_wire::version}, {"path", address.path}, {"access", word}})
          .head;
  visibility_ = std::chrono::seconds(json_uint(head, "visibility", 3600));
  append_only_ = json_bool(head, "append_only");
}

RemoteStore::~RemoteStore() = default;

std::chrono::seconds RemoteStore::visibility() const {
  const Json head = connection_->ask(request::exists, {{"name", network_object}}).head;
  return json_bool(head, "exists") ? std::max(visibility_, network_visibility) : visibility_;
}

std::unique_ptr<ObjectWriter> RemoteStore::writer(std::string name) {
  return std::make_unique<Writer>(connection_, name);
}

std::unique_ptr<ObjectReader> RemoteStore::reader(const std::string& name) {
  return std::make_unique<Reader>(connection_, name);
}

std::unique_ptr<ObjectView> RemoteStore::view(const std::string& name) {
  Reader object(connection_, name);
  if (object.size() > max_view_bytes) throw Corruption(fmt::format("{}/{} is too long", url_, name));
  std::vector<std::byte> bytes(object.size());
  object.read(0, bytes);
  return memory_view(std::move(bytes));
}

std::vector<ObjectInfo> RemoteStore::list(std::string_view prefix) {
  const store_wire::Message answer = connection_->ask(request::list, {{"prefix", prefix}});
  std::vector<ObjectInfo> objects;
  std::string_view rest = as_text(answer.body);
  const auto number = [&rest] {
    std::uint64_t value = 0;
    const auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (failure != std::errc() || end == rest.data() + rest.size() || *end != ' ')
      throw ProtocolError("the store's list is malformed");
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()) + 1);
    return value;
  };
  while (!rest.empty()) {
    ObjectInfo object;
    object.size = number();
    object.modified = WallTime(std::chrono::seconds(std::min<std::uint64_t>(number(), INT32_MAX * std::uint64_t{4})));
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) throw ProtocolError("the store's list is malformed");
    object.name = rest.substr(0, end);
    if (!object.name.starts_with(prefix)) throw ProtocolError("the store lists what was not asked for");
    rest.remove_prefix(end + 1);
    objects.push_back(std::move(object));
  }
  return objects;
}

bool RemoteStore::exists(const std::string& name) {
  return json_bool(connection_->ask(request::exists, {{"name", name}}).head, "exists");
}

void RemoteStore::remove(const std::string& name) {
  static_cast<void>(connection_->ask(request::remove, {{"name", name}}));
}

void RemoteStore::work_under(std::string_view lease) {
  static_cast<void>(connection_->ask(request::work_under, {{"lease", lease}}));
}

void RemoteStore::drop_unfinished(std::string_view lease) {
  static_cast<void>(connection_->ask(request::drop_unfinished, {{"lease", lease}}));
}

std::unique_ptr<StoreLock> RemoteStore::try_lock(const std::string& name) {
  const std::uint64_t number = connection_->new_number();
  const store_wire::Message answer = connection_->ask(request::lock, {{"object", number}, {"name", name}});
  if (!json_bool(answer.head, "locked")) return nullptr;
  return std::make_unique<Lock>(connection_, number);
}

}  // namespace stillpoint
