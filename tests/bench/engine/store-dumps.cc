// SPDX-License-Identifier: LGPL-2.1-or-later
// store-dumps REPOSITORY FILE...: stores files as dumps of one database, one after the other, and prints what each of
// them added.
#include "common/clock.hh"
#include "common/log.hh"
#include "host/repository/repository.hh"

#include <fmt/format.h>

#include <fstream>
#include <optional>
#include <span>
#include <vector>

using namespace stillpoint;

namespace {

/// What a dump is built on is durable.
void commit(Repository& repository, const StreamMap& map) {
  Manifest manifest;
  manifest.id = random_id();
  manifest.domain = "bench";
  manifest.instant = wall_now();
  manifest.dumps.push_back({"postgresql/15-main/app", map, 0, ""});
  repository.commit(manifest);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: store-dumps REPOSITORY FILE...\n");
    return 2;
  }
  Repository::create(argv[1], {});
  Repository repository(argv[1], Repository::Mode::write);
  std::vector<char> part(1 << 20);
  std::optional<StreamMap> earlier;
  for (int i = 2; i < argc; ++i) {
    const auto begin = SteadyClock::now();
    std::ifstream file(argv[i], std::ios::binary);
    const auto writer = repository.write_dump(earlier);
    while (file.read(part.data(), static_cast<std::streamsize>(part.size())) || file.gcount() > 0)
      writer->write(std::as_bytes(std::span(part).first(static_cast<std::size_t>(file.gcount()))));
    const StreamMap map = writer->finish();
    commit(repository, map);
    fmt::print("{} {} {:.3f}\n", map.size, writer->counts().stored,
               std::chrono::duration<double>(SteadyClock::now() - begin).count());
    earlier = map;
  }
  return 0;
}
