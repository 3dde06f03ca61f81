// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/log.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <charconv>
#include <memory>

namespace stillpoint {

namespace {

struct Request {
  std::vector<std::string> names;
  std::string read_data;  ///< "10%", "100%"
  bool reads = false;
  bool read_only = false;
};

unsigned parse_percent(std::string_view text) {
  std::string_view digits = text;
  if (digits.ends_with('%')) digits.remove_suffix(1);
  unsigned percent = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), percent);
  if (error != std::errc() || end != digits.data() + digits.size() || percent == 0 || percent > 100)
    throw UsageError(fmt::format("--read-data={} is no share", printable(text)),
                     "say --read-data or, say, --read-data=10%");
  return percent;
}

Json to_json(const VerifyResult& result) {
  Json damaged = Json::array();
  for (const DamagedStillPoint& still_point : result.damaged)
    damaged.push_back({{"name", still_point.name}, {"reasons", still_point.reasons}});
  return {{"still_points", result.still_points},
          {"covered", result.covered},
          {"packs", result.packs},
          {"packs_read", result.packs_read},
          {"bytes_read", result.bytes_read},
          {"chunks_read", result.chunks_read},
          {"unreadable_chunks", result.unreadable_chunks},
          {"damaged_chunks", result.damaged_chunks},
          {"problems", result.problems},
          {"damaged", std::move(damaged)}};
}

void print(const VerifyResult& result, bool read_only) {
  std::string text =
      fmt::format("{} still points, {} of disks and dumps: {}\n", result.still_points, format_size(result.covered),
                  result.damaged.empty() ? "all is there" : fmt::format("{} damaged", result.damaged.size()));
  if (result.packs_read > 0)
    text += fmt::format("{} of {} packs read, {}: {} chunks match their ids{}\n", result.packs_read, result.packs,
                        format_size(result.bytes_read), result.chunks_read,
                        result.damaged_chunks == 0 ? ""
                        : read_only                ? fmt::format(", {} do not", result.damaged_chunks)
                                    : fmt::format(", {} do not and are in quarantine", result.damaged_chunks));
  for (const DamagedStillPoint& still_point : result.damaged) {
    text += fmt::format("{}\n", printable(still_point.name));
    for (const std::string& reason : still_point.reasons)
      text += fmt::format("  {}\n", printable(reason));
  }
  print_result(text);
}

ExitCode verify(const Request& request, const Invocation& invocation) {
  VerifyOptions options;
  options.stop = invocation.stop;
  if (request.reads) options.read_percent = request.read_data.empty() ? 100 : parse_percent(request.read_data);
  Repository repository = invocation.open(request.read_only ? Repository::Mode::read : Repository::Mode::write);
  Progress progress(invocation.progress, STDERR_FILENO);
  VerifyResult result;
  {
    const std::unique_ptr<CaptureProgress> line = request.reads ? progress.line("packs") : nullptr;
    if (line) options.progress = [&](std::uint64_t done, std::uint64_t total) { line->advance(done, total); };
    result = repository.verify(request.names, options);
  }
  for (const std::string& problem : result.problems)
    log_warning("{}", printable(problem));
  if (invocation.json)
    print_json(to_json(result));
  else
    print(result, request.read_only);
  if (result.damaged.empty()) return ExitCode::success;
  log_error("{} of {} still points cannot be given back as a whole", result.damaged.size(), result.still_points);
  log_info("  restore others; the next backup of these domains stores again what it still has");
  return ExitCode::corruption;
}

}  // namespace

RunVerb add_verify(CLI::App& parser) {
  const auto request = std::make_shared<Request>();
  parser.add_option("NAME", request->names, "a still point or a domain (all)");
  CLI::Option* read = parser
                          .add_option("--read-data", request->read_data,
                                      "read the packs, all or a random share of them, and check every chunk")
                          ->expected(0, 1)
                          ->type_name("[=PERCENT]");
  parser.add_flag("--read-only", request->read_only, "write nothing but a lease: no quarantine, nothing mended");
  return [request, read](const Invocation& invocation) {
    request->reads = read->count() > 0;
    return verify(*request, invocation);
  };
}

}  // namespace stillpoint
