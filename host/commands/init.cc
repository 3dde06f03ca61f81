// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/log.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/key-source.hh"
#include "host/commands/output.hh"
#include "host/repository/repository-config.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

namespace stillpoint {

namespace {

struct InitRequest {
  std::string chunk_size;
  bool encrypt = false;
};

ExitCode init(const InitRequest& request, const Invocation& invocation) {
  const std::string& chunk_size = request.chunk_size;
  RepositoryOptions options;
  if (!chunk_size.empty()) {
    const std::uint64_t bytes = parse_size(chunk_size);
    if (!valid_chunk_bytes(bytes))
      throw UsageError(fmt::format("chunks of {} bytes are not possible", bytes), "use a power of two from 64K to 4M");
    options.chunk_bytes = static_cast<std::uint32_t>(bytes);
  }
  const std::string& url = invocation.repository();
  if (!request.encrypt && invocation.key_is_meant)
    throw UsageError("a key is given, and nothing would be encrypted with it", "say --encrypt, or give no key");
  if (request.encrypt) options.key = find_new_key(invocation.key_file, "STILLPOINT_PASSPHRASE", invocation.stop);
  Repository::create(url, options);
  // Also proof that the key opens it.
  const Repository made(url, Repository::Mode::read, [&] { return *options.key; });
  if (invocation.json)
    print_json(
        {{"repository", url}, {"id", made.id()}, {"chunk_bytes", made.chunk_bytes()}, {"encrypted", made.encrypted()}});
  else
    print_result(
        fmt::format("made {}repository {} at {}\n", made.encrypted() ? "encrypted " : "", made.id(), printable(url)));
  if (made.encrypted())
    log_warning("without one of its keys nobody can read this repository: keep a copy of the key elsewhere");
  return ExitCode::success;
}

}  // namespace

RunVerb add_init(CLI::App& parser) {
  const auto request = std::make_shared<InitRequest>();
  parser
      .add_option("--chunk-size", request->chunk_size,
                  "bytes of a chunk, a power of two from 64K to 4M, for ever (256K)")
      ->type_name("SIZE");
  parser.add_flag("--encrypt", request->encrypt, "encrypt everything with a passphrase or --key-file, for ever");
  return [request](const Invocation& invocation) { return init(*request, invocation); };
}

}  // namespace stillpoint
