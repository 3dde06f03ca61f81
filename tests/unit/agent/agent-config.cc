// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/agent-config.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

using namespace stillpoint;

namespace {

/// A configuration file that goes with its scope.
class ConfigFile {
 public:
  explicit ConfigFile(std::string_view text) {
    char name[] = "/tmp/stillpoint-agent-conf-XXXXXX";
    const UniqueFd fd(::mkstemp(name));
    path_ = name;
    write_all(fd.get(), as_bytes(text), path_.native());
  }
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;
  ~ConfigFile() { ::unlink(path_.c_str()); }

  [[nodiscard]] AgentConfig load() const { return load_agent_config(path_); }

 private:
  std::filesystem::path path_;
};

/// What is wrong with that text.
std::string complaint(std::string_view text) {
  try {
    static_cast<void>(ConfigFile(text).load());
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "nothing";
}

bool names(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("without a file the defaults stand") {
  const AgentConfig config = load_agent_config("/nonexistent/agent.conf");
  CHECK(config.barrier_limit == protocol::barrier_limit);
  CHECK(config.postgresql.enabled);
  CHECK(config.postgresql.search);
  CHECK(config.mysql.search);
  CHECK(config.hold_writers);
}

TEST_CASE("every key is read") {
  const AgentConfig config =
      ConfigFile(
          "[agent]\nbarrier_limit_ms=1\nhook_limit_ms=2\nguest_deadline_ms=3\ncontrol_socket=/c\nreport_path=/r\n"
          "runtime_directory=/d\nengines_directory=/e\n[postgresql]\nenabled=false\nsocket_directories=/a;/b\nuser=pg\n"
          "exact=require\nexclude_databases=x;y\n[mysql]\nenabled=false\nsockets=/s\nuser=my\npassword_file=/p\n"
          "exclude_databases=z\n")
          .load();
  CHECK(config.barrier_limit.count() == 1);
  CHECK(config.hook_limit.count() == 2);
  CHECK(config.guest_deadline.count() == 3);
  CHECK(config.engines_directory == "/e");
  CHECK(config.control_socket == "/c");
  CHECK(config.report_path == "/r");
  CHECK(config.runtime_directory == "/d");
  CHECK_FALSE(config.postgresql.enabled);
  CHECK(config.postgresql.socket_directories == std::vector<std::string>{"/a", "/b"});
  CHECK(config.postgresql.user == "pg");
  CHECK(config.postgresql.exact == ExactPolicy::require);
  CHECK(config.postgresql.exclude_databases == std::vector<std::string>{"x", "y"});
  CHECK_FALSE(config.mysql.enabled);
  CHECK_FALSE(config.postgresql.search);
  CHECK_FALSE(config.mysql.search);
  CHECK(config.mysql.sockets == std::vector<std::string>{"/s"});
  CHECK(config.mysql.user == "my");
  CHECK(config.mysql.password_file == "/p");
  CHECK(config.mysql.exclude_databases == std::vector<std::string>{"z"});
}

TEST_CASE("what is not known is an error that says where") {
  CHECK(names(complaint("[agnet]\n"), "[agnet]"));
  CHECK(names(complaint("[agent]\nbarier_limit_ms=1\n"), "[agent] barier_limit_ms"));
  CHECK(names(complaint("[mysql]\nenabled=perhaps\n"), "[mysql] enabled"));
  CHECK(names(complaint("[postgresql]\nexact=yes\n"), "[postgresql] exact: is none of try, require and off"));
  CHECK(complaint("[postgresql]\nexact=off\n") == "nothing");
  CHECK(ConfigFile("[mysql]\nexact=off\n").load().mysql.exact == ExactPolicy::off);
  CHECK(names(complaint("[mysql]\npassword_file=secret\n"), "[mysql] password_file"));
  CHECK(names(complaint("[agent]\nreport_path=../x\n"), "[agent] report_path"));
  for (const char* number : {"", "fast", "0", "-1", "3600001", "99999999999999999999", "1.5"})
    CHECK(names(complaint("[agent]\nhook_limit_ms=" + std::string(number) + "\n"), "[agent] hook_limit_ms"));
  CHECK(names(complaint("no group=1\n"), "/tmp/stillpoint-agent-conf-"));
}

TEST_CASE("the time limits stand in their order") {
  CHECK(names(complaint("[agent]\nbarrier_limit_ms=8000\n"), "order"));
  CHECK(names(complaint("[agent]\nhook_limit_ms=20000\n"), "order"));
  CHECK(names(complaint("[agent]\nguest_deadline_ms=30000\n"), "order"));
  CHECK(complaint("[agent]\nguest_deadline_ms=29999\n") == "nothing");
}

TEST_CASE("what happens to tables without transactions is one of two words") {
  CHECK_FALSE(ConfigFile("[mysql]\nenabled=true\n").load().mysql.hold_nontransactional);
  CHECK_FALSE(ConfigFile("[mysql]\nnontransactional=flag\n").load().mysql.hold_nontransactional);
  CHECK(ConfigFile("[mysql]\nnontransactional=hold\n").load().mysql.hold_nontransactional);
  CHECK(names(complaint("[mysql]\nnontransactional=true\n"), "neither hold nor flag"));
}
