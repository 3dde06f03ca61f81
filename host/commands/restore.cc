// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"
#include "common/rate-limit.hh"
#include "host/commands/command.hh"
#include "host/commands/disk-choice.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/watched-progress.hh"
#include "host/repository/repository.hh"
#include "host/restore/restore-disk.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

namespace stillpoint {

namespace {

struct RestoreOptions {
  std::string name;
  std::string disk;
  std::string to;
  std::string format;
  std::string limit;
  bool overwrite = false;
};

std::string format_of(const RestoreOptions& options, const DiskRecord& record, bool stream) {
  if (stream && options.format == "qcow2")
    throw UsageError("qcow2 cannot be written to a stream", "use --format raw, or name a file");
  if (!options.format.empty()) return options.format;
  return record.format == "qcow2" && !stream ? "qcow2" : "raw";
}

ExitCode restore(const RestoreOptions& options, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::read);
  const Manifest manifest = repository.load(options.name);
  const DiskRecord& record = choose_disk(manifest, options.disk);
  const bool to_stdout = options.to == "-";
  const std::string format = format_of(options, record, to_stdout);
  if (to_stdout && invocation.json)
    throw UsageError("--json and a disk cannot share standard output", "write the disk to a file");
  if (to_stdout && ::isatty(STDOUT_FILENO) == 1)
    throw UsageError("a disk is nothing for a terminal", "redirect standard output, or name a file");
  const std::uint64_t rate = options.limit.empty() ? 0 : parse_size(options.limit);
  const auto limit = rate == 0 ? nullptr : std::make_unique<RateLimit>(rate, invocation.stop);
  const auto begun = SteadyClock::now();
  {
    Progress progress(invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(record.target), invocation.stop, "stopped before the disk was complete");
    const auto disk = repository.open_disk(record.map);
    if (to_stdout) {
      restore_disk(*disk, *stream_target(STDOUT_FILENO, disk->size(), invocation.stop), watched, limit.get());
      return ExitCode::success;
    }
    restore_disk(*disk, options.to, format, options.overwrite, watched, limit.get());
  }
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  if (invocation.json)
    print_json({{"name", manifest.name},
                {"disk", record.target},
                {"to", options.to},
                {"format", format},
                {"bytes", record.map.size},
                {"took_us", took.count()}});
  else
    print_result(fmt::format("restored {} of {} to {}: {}, {}, in {}\n", printable(record.target),
                             printable(manifest.name), printable(options.to), format, format_size(record.map.size),
                             format_duration(took)));
  return ExitCode::success;
}

}  // namespace

RunVerb add_restore(CLI::App& parser) {
  const auto options = std::make_shared<RestoreOptions>();
  parser.add_option("NAME", options->name, "a still point, DOMAIN@latest or DOMAIN")->required();
  parser.add_option("--disk", options->disk, "the disk, as 'stillpoint show' names it")->type_name("vda")->required();
  parser
      .add_option("--to", options->to, "the image to make, a block device with --overwrite, or - for standard output")
      ->type_name("FILE")
      ->required();
  parser.add_option("--format", options->format, "raw or qcow2 (as the disk was)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"raw", "qcow2"}));
  parser.add_option("--limit", options->limit, "write so many bytes a second at most, as in 100M")->type_name("RATE");
  parser.add_flag("--overwrite", options->overwrite, "replace what is there");
  return [options](const Invocation& invocation) { return restore(*options, invocation); };
}

}  // namespace stillpoint
