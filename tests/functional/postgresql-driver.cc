// SPDX-License-Identifier: LGPL-2.1-or-later
// postgresql-driver search | DIRECTORY[:DIRECTORY]...
//     [no-barrier | exact=off|require | user=ROLE | deadline=MS | EXCLUDED-DATABASE]...: see engine-driver.hh
#include "agent/postgresql.hh"
#include "tests/functional/engine-driver.hh"

#include <iostream>
#include <sstream>
#include <string>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: see the top of postgresql-driver.cc\n";
    return 2;
  }
  stillpoint::AgentConfig config;
  config.postgresql.search = std::string(argv[1]) == "search";
  config.postgresql.socket_directories.clear();
  std::istringstream directories(argv[1]);
  for (std::string directory; std::getline(directories, directory, ':');)
    config.postgresql.socket_directories.push_back(directory);
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "no-barrier")
      config.hold_writers = false;
    else if (word == "exact=off" || word == "exact=require")
      config.postgresql.exact = word == "exact=off" ? stillpoint::ExactPolicy::off : stillpoint::ExactPolicy::require;
    else if (word.starts_with("user="))
      config.postgresql.user = word.substr(5);
    else if (word.starts_with("deadline="))
      config.guest_deadline = std::chrono::milliseconds(std::stol(word.substr(9)));
    else
      config.postgresql.exclude_databases.push_back(word);
  }
  stillpoint::Discovered found;
  stillpoint::discover_postgresql(config, stillpoint::Deadline(std::chrono::seconds(20)), found);
  return stillpoint::test::drive_engine(std::move(found));
}
