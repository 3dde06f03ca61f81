// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/agent-config.hh"

#include "common/errors.hh"
#include "common/glib.hh"

#include <fmt/format.h>

#include <functional>
#include <map>

namespace stillpoint {

namespace {

using KeyFile = CPtr<GKeyFile, g_key_file_unref>;
using StringArray = CPtr<char*, g_strfreev>;

/// Where a value stands, for the messages.
struct Place {
  const std::filesystem::path& file;
  std::string group;
  std::string key;
};

[[noreturn]] void refuse(const Place& place, std::string_view why) {
  throw ConfigError(fmt::format("{}: [{}] {}: {}", place.file.native(), place.group, place.key, why),
                    "see agent.conf's comments for what it may say");
}

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path), file_(g_key_file_new()) {
    GErrorOut error;
    if (g_key_file_load_from_file(file_.get(), path.c_str(), G_KEY_FILE_NONE, error) == 0)
      error.raise<ConfigError>(path.native());
  }

  void text(const std::string& group, const std::string& key, std::string& value) {
    known_[group].emplace(key, [&value, this](const Place& place) { value = read_text(place); });
  }
  void path(const std::string& group, const std::string& key, std::filesystem::path& value) {
    known_[group].emplace(key, [&value, this](const Place& place) {
      value = read_text(place);
      if (!value.is_absolute()) refuse(place, "is not an absolute path");
    });
  }
  void list(const std::string& group, const std::string& key, std::vector<std::string>& value) {
    known_[group].emplace(key, [&value, this](const Place& place) {
      GErrorOut error;
      const StringArray items(
          g_key_file_get_string_list(file_.get(), place.group.c_str(), place.key.c_str(), nullptr, error));
      if (!items) refuse(place, error.message());
      value.clear();
      for (char** item = items.get(); *item != nullptr; ++item)
        value.emplace_back(*item);
    });
  }
  void flag(const std::string& group, const std::string& key, bool& value) {
    either(group, key, "true", "false", value);
  }
  void either(const std::string& group, const std::string& key, const std::string& yes, const std::string& no,
              bool& value) {
    known_[group].emplace(key, [&value, yes, no, this](const Place& place) {
      const std::string text = read_text(place);
      if (text != yes && text != no) refuse(place, fmt::format("is neither {} nor {}", yes, no));
      value = text == yes;
    });
  }
  void policy(const std::string& group, const std::string& key, ExactPolicy& value) {
    known_[group].emplace(key, [&value, this](const Place& place) {
      static const std::map<std::string, ExactPolicy> policies{
          {"try", ExactPolicy::attempt}, {"require", ExactPolicy::require}, {"off", ExactPolicy::off}};
      const auto found = policies.find(read_text(place));
      if (found == policies.end()) refuse(place, "is none of try, require and off");
      value = found->second;
    });
  }
  void milliseconds(const std::string& group, const std::string& key, std::chrono::milliseconds& value) {
    known_[group].emplace(key, [&value, this](const Place& place) {
      GErrorOut error;
      const int number = g_key_file_get_integer(file_.get(), place.group.c_str(), place.key.c_str(), error);
      if (error.get() != nullptr || number < 1 || number > 3600000)
        refuse(place, "is not a whole number of milliseconds from 1 to 3600000");
      value = std::chrono::milliseconds(number);
    });
  }

  [[nodiscard]] bool has(const char* group, const char* key) const {
    return g_key_file_has_key(file_.get(), group, key, nullptr) != 0;
  }

  /// Reads every key that is there; an unknown group or key is an error.
  void read() {
    const StringArray groups(g_key_file_get_groups(file_.get(), nullptr));
    for (char** group = groups.get(); *group != nullptr; ++group) {
      const auto keys_known = known_.find(*group);
      if (keys_known == known_.end())
        throw ConfigError(fmt::format("{}: [{}] is not a known group", path_.native(), *group));
      const StringArray keys(g_key_file_get_keys(file_.get(), *group, nullptr, nullptr));
      for (char** key = keys.get(); *key != nullptr; ++key) {
        const Place place{path_, *group, *key};
        const auto reader = keys_known->second.find(*key);
        if (reader == keys_known->second.end()) refuse(place, "is not a known key");
        reader->second(place);
      }
    }
  }

 private:
  [[nodiscard]] std::string read_text(const Place& place) const {
    GErrorOut error;
    const GCharPtr value(g_key_file_get_string(file_.get(), place.group.c_str(), place.key.c_str(), error));
    if (!value) refuse(place, error.message());
    return value.get();
  }

  const std::filesystem::path& path_;
  KeyFile file_;
  std::map<std::string, std::map<std::string, std::function<void(const Place&)>>> known_;
};

}  // namespace

AgentConfig load_agent_config(const std::filesystem::path& path) {
  AgentConfig config;
  if (std::filesystem::exists(path)) {
    Reader reader(path);
    reader.milliseconds("agent", "barrier_limit_ms", config.barrier_limit);
    reader.milliseconds("agent", "hook_limit_ms", config.hook_limit);
    reader.milliseconds("agent", "guest_deadline_ms", config.guest_deadline);
    reader.path("agent", "control_socket", config.control_socket);
    reader.path("agent", "report_path", config.report_path);
    reader.path("agent", "runtime_directory", config.runtime_directory);
    reader.path("agent", "engines_directory", config.engines_directory);
    reader.flag("postgresql", "enabled", config.postgresql.enabled);
    reader.list("postgresql", "socket_directories", config.postgresql.socket_directories);
    reader.text("postgresql", "user", config.postgresql.user);
    reader.policy("postgresql", "exact", config.postgresql.exact);
    reader.list("postgresql", "exclude_databases", config.postgresql.exclude_databases);
    reader.flag("mysql", "enabled", config.mysql.enabled);
    reader.list("mysql", "sockets", config.mysql.sockets);
    reader.text("mysql", "user", config.mysql.user);
    reader.path("mysql", "password_file", config.mysql.password_file);
    reader.policy("mysql", "exact", config.mysql.exact);
    reader.list("mysql", "exclude_databases", config.mysql.exclude_databases);
    reader.either("mysql", "nontransactional", "hold", "flag", config.mysql.hold_nontransactional);
    reader.read();
    config.postgresql.search = !reader.has("postgresql", "socket_directories");
    config.mysql.search = !reader.has("mysql", "sockets");
  }
  if (!(config.barrier_limit < config.hook_limit && config.hook_limit < config.guest_deadline &&
        config.guest_deadline < protocol::host_deadline))
    throw ConfigError(
        fmt::format("{}: the time limits do not stand in their order", path.native()),
        fmt::format("barrier_limit_ms < hook_limit_ms < guest_deadline_ms < {}", protocol::host_deadline.count()));
  return config;
}

}  // namespace stillpoint
