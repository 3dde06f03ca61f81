// SPDX-License-Identifier: LGPL-2.1-or-later
// store-dumps REPOSITORY FILE...: stores files as dumps, one after the other, and prints what each of them added.
#include "common/clock.hh"
#include "common/log.hh"
#include "host/repository/repository.hh"

#include <fmt/format.h>

#include <fstream>
#include <span>
#include <vector>

using namespace stillpoint;

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: store-dumps REPOSITORY FILE...\n");
    return 2;
  }
  Repository::create(argv[1], {});
  Repository repository(argv[1], Repository::Mode::write);
  std::vector<char> part(1 << 20);
  for (int i = 2; i < argc; ++i) {
    const auto begin = SteadyClock::now();
    std::ifstream file(argv[i], std::ios::binary);
    const auto writer = repository.write_dump();
    while (file.read(part.data(), static_cast<std::streamsize>(part.size())) || file.gcount() > 0)
      writer->write(std::as_bytes(std::span(part).first(static_cast<std::size_t>(file.gcount()))));
    const StreamMap map = writer->finish();
    fmt::print("{} {} {:.3f}\n", map.size, writer->counts().stored,
               std::chrono::duration<double>(SteadyClock::now() - begin).count());
  }
  return 0;
}
