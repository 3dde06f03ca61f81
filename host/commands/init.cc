// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/repository/repository-config.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

namespace stillpoint {

namespace {

ExitCode init(const std::string& chunk_size, const Invocation& invocation) {
  RepositoryOptions options;
  if (!chunk_size.empty()) {
    const std::uint64_t bytes = parse_size(chunk_size);
    if (!valid_chunk_bytes(bytes))
      throw UsageError(fmt::format("chunks of {} bytes are not possible", bytes), "use a power of two from 64K to 4M");
    options.chunk_bytes = static_cast<std::uint32_t>(bytes);
  }
  const std::string& url = invocation.repository();
  Repository::create(url, options);
  const Repository made(url, Repository::Mode::read);
  if (invocation.json)
    print_json({{"repository", url}, {"id", made.id()}, {"chunk_bytes", made.chunk_bytes()}});
  else
    print_result(fmt::format("made repository {} at {}\n", made.id(), printable(url)));
  return ExitCode::success;
}

}  // namespace

RunVerb add_init(CLI::App& parser) {
  const auto chunk_size = std::make_shared<std::string>();
  parser.add_option("--chunk-size", *chunk_size, "bytes of a chunk, a power of two from 64K to 4M, for ever (256K)")
      ->type_name("SIZE");
  return [chunk_size](const Invocation& invocation) { return init(*chunk_size, invocation); };
}

}  // namespace stillpoint
