// SPDX-License-Identifier: LGPL-2.1-or-later
// mysql-driver search|SOCKET RUNTIME-DIRECTORY [MODE [USER PASSWORD-FILE]]: see engine-driver.hh
// MODE: "", or some of no-barrier, read-lock, hold, off and require with commas between them
#include "agent/mysql-engine.hh"
#include "tests/functional/engine-driver.hh"

#include <iostream>
#include <string>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: mysql-driver search|SOCKET RUNTIME-DIRECTORY [MODE [USER PASSWORD-FILE]]\n";
    return 2;
  }
  const std::string mode = argc > 3 ? argv[3] : "";
  stillpoint::AgentConfig config;
  config.mysql.search = std::string(argv[1]) == "search";
  config.mysql.sockets = {argv[1]};
  config.runtime_directory = argv[2];
  const auto has = [&](const char* word) { return mode.find(word) != std::string::npos; };
  config.hold_writers = !has("no-barrier");
  config.mysql.hold_nontransactional = has("hold");
  if (has("off")) config.mysql.exact = stillpoint::ExactPolicy::off;
  if (has("require")) config.mysql.exact = stillpoint::ExactPolicy::require;
  if (argc > 5) {
    config.mysql.user = argv[4];
    config.mysql.password_file = argv[5];
  }
  std::optional<stillpoint::mysql::BarrierKind> barrier;
  if (has("read-lock")) barrier = stillpoint::mysql::BarrierKind::read_lock;
  stillpoint::Discovered found;
  stillpoint::mysql::discover_mysql(config, barrier, stillpoint::Deadline(std::chrono::seconds(20)), found);
  return stillpoint::test::drive_engine(std::move(found));
}
