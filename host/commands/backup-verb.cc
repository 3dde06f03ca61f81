// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/commands/backup.hh"
#include "host/commands/command.hh"
#include "host/commands/filter-options.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/still-point-text.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <set>

namespace stillpoint {

namespace {

struct BackupOptions {
  BackupRequest request;
  std::string require;
  std::string max_freeze;
  std::string limit;
  std::string compression;
  std::vector<std::string> images;
  FilterOptions filter;
  std::string trust;
  bool no_trees = false;
  bool no_dumps = false;
};

void complete(BackupRequest& request, const BackupOptions& options, const Invocation& invocation) {
  request.uri = invocation.libvirt_uri;
  request.trees = !options.no_trees;
  request.tree_filter = options.filter.filter();
  if (!request.trees && !request.tree_filter.empty())
    throw UsageError("--no-trees leaves nothing that --include and --exclude could choose from");
  if (request.appliance_trees && options.no_trees)
    throw UsageError("--appliance-trees and --no-trees do not go together");
  request.kernel_trees = !options.trust.empty();
  if (request.kernel_trees && options.no_trees) throw UsageError("--trust-guest and --no-trees do not go together");
  request.dumps = !options.no_dumps;
  if (!options.max_freeze.empty()) request.max_freeze = parse_duration(options.max_freeze);
  request.limit = options.limit.empty() ? invocation.config.limit : parse_size(options.limit);
  if (!options.require.empty()) request.require = parse_grade(options.require);
  if (request.scratch.empty()) request.scratch = invocation.config.scratch_directory;
  std::set<std::string> targets;
  for (const std::string& text : options.images) {
    request.images.push_back(parse_disk_image(text));
    if (!targets.insert(request.images.back().target).second)
      throw UsageError(fmt::format("--disk-image names {} twice", request.images.back().target));
  }
  if (!request.images.empty() && (!request.disks.empty() || !request.exclude.empty()))
    throw UsageError("--disk-image and a choice of a domain's disks do not go together");
}

ExitCode back_up(const BackupOptions& options, const Invocation& invocation) {
  BackupRequest request = options.request;
  complete(request, options, invocation);
  std::optional<int> compression;
  if (!options.compression.empty()) compression = parse_compression(options.compression);
  Repository repository = invocation.open(Repository::Mode::write);
  if (compression) repository.set_compression(*compression);
  Progress progress(invocation.progress, STDERR_FILENO);
  const Manifest manifest = take_still_point(request, repository, progress, invocation.stop);
  if (invocation.json)
    print_json(to_json(manifest));
  else
    print_result(summarise(manifest));
  return totals_of(manifest).complete ? ExitCode::success : ExitCode::incomplete;
}

}  // namespace

RunVerb add_backup(CLI::App& parser) {
  const auto options = std::make_shared<BackupOptions>();
  BackupRequest& request = options->request;
  parser.add_option("DOMAIN", request.domain, "the domain's name; with --disk-image, the name for the still point")
      ->required();
  parser.add_option("--require", options->require, "refuse less than this grade (what the guest offers)")
      ->type_name("application|filesystem|crash");
  parser.add_option("--disk", request.disks, "capture this disk; may be given again (all disks)")->type_name("TARGET");
  parser.add_option("--exclude-disk", request.exclude, "leave this disk out; may be given again")->type_name("TARGET");
  parser.add_option("--disk-image", options->images, "capture an image that no guest uses; may be given again")
      ->type_name("TARGET=PATH[,format=raw|qcow2]");
  parser.add_option("--scratch", request.scratch, "where the guest's old blocks go while its disks are read")
      ->type_name("DIR");
  parser.add_option("--max-freeze", options->max_freeze, "give up rather than hold writers longer, as in 2s")
      ->type_name("DURATION");
  parser.add_option("--parallel", request.parallel, "disks that are read at once (4)")
      ->check(CLI::Range(1, 64))
      ->type_name("N");
  parser
      .add_option("--limit", options->limit, "read disks with so many bytes a second at most, as in 100M; 0: no limit")
      ->type_name("RATE");
  parser.add_option("--compression", options->compression, "of what is stored: none, or zstd's level, 1 to 19 (1)")
      ->type_name("LEVEL");
  parser.add_flag("--full", request.full, "read every disk in full");
  parser.add_flag("--no-trees", options->no_trees, "write no file trees");
  options->filter.add_to(parser);
  parser.add_flag("--appliance-trees", request.appliance_trees, "write trees of XFS and others too, by an appliance");
  parser.add_option("--trust-guest", options->trust, "have this machine's kernel mount XFS and others for their trees")
      ->check(CLI::IsMember({"kernel-mount"}))
      ->type_name("kernel-mount");
  parser.add_flag("--no-dumps", options->no_dumps, "take no dumps");
  return [options](const Invocation& invocation) { return back_up(*options, invocation); };
}

}  // namespace stillpoint
