// SPDX-License-Identifier: LGPL-2.1-or-later
// dump-driver REPOSITORY DOMAIN NAME=FILE...: commits a still point of these dumps, and prints its name.
#include "common/clock.hh"
#include "host/repository/repository.hh"

#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

using namespace stillpoint;

namespace {

/// The same dump of the domain's newest still point, as a backup builds on it.
std::optional<StreamMap> earlier(Repository& repository, const std::string& domain, const std::string& name) {
  if (const std::optional<Manifest> latest = repository.latest(domain))
    for (const DumpRecord& dump : latest->dumps)
      if (dump.name == name) return dump.map;
  return std::nullopt;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: dump-driver REPOSITORY DOMAIN NAME=FILE...\n");
    return 2;
  }
  Repository repository(argv[1], Repository::Mode::write);
  Manifest manifest;
  manifest.id = random_id();
  manifest.domain = argv[2];
  manifest.instant = std::chrono::floor<std::chrono::seconds>(wall_now());
  manifest.grade_reasons = {"dumps alone"};
  manifest.program_version = "test";
  std::vector<char> part(1 << 20);
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::size_t equals = argument.find('=');
    std::ifstream file(argument.substr(equals + 1), std::ios::binary);
    const auto writer = repository.write_dump(earlier(repository, manifest.domain, argument.substr(0, equals)));
    while (file.read(part.data(), static_cast<std::streamsize>(part.size())) || file.gcount() > 0)
      writer->write(std::as_bytes(std::span(part).first(static_cast<std::size_t>(file.gcount()))));
    DumpRecord dump;
    dump.name = argument.substr(0, equals);
    dump.map = writer->finish();
    manifest.dumps.push_back(std::move(dump));
  }
  repository.commit(manifest);
  fmt::print("{}\n", manifest.name);
  return 0;
}
