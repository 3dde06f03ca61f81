// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/backup.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "common/test-pause.hh"
#include "config.hh"
#include "host/capture/limited-reader.hh"
#include "host/capture/nbd-disk.hh"
#include "host/capture/raw-image.hh"
#include "host/commands/capture-levels.hh"
#include "host/commands/capture-state.hh"
#include "host/commands/capture-trees.hh"
#include "host/commands/disk-instant.hh"
#include "host/commands/grade.hh"
#include "host/commands/guest-window.hh"
#include "host/commands/progress.hh"
#include "host/commands/report-copy.hh"
#include "host/commands/task-group.hh"
#include "host/guest/agent-client.hh"
#include "host/guest/backup-job.hh"
#include "host/guest/connection.hh"
#include "host/guest/freeze-window.hh"
#include "host/guest/thaw-guard.hh"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <tuple>

namespace stillpoint {

namespace {

/// For discovery, sessions and checkpoints of every database.
constexpr std::chrono::seconds prepare_limit{60};
/// For what an earlier backup has left to thaw the guest.
constexpr std::chrono::seconds guard_limit{45};
/// For another node's freeze window to end. What the agent has prepared is not yet out of date then.
constexpr std::chrono::seconds cluster_limit{20};

/// Without a readable one all is read in full: a damaged manifest must not end all backups of its domain.
std::optional<Manifest> latest(Repository& repository, const std::string& domain) {
  try {
    return repository.latest(domain);
  } catch (const Corruption& e) {
    log_warning("the previous still point of {} is no base: {}", domain, e.what());
    return std::nullopt;
  }
}

/// Everything that one run shares.
struct Run {
  const BackupRequest& request;
  Repository& repository;
  Progress& progress;
  const std::stop_token& stop;
  Manifest manifest;
  std::optional<Manifest> parent;
  Evidence evidence;
  std::vector<std::string> clusters{};  ///< whose other nodes must not be held
  StatePlaces places{};
  CapturedState state{};
};

void check_stop(const Run& run) {
  if (run.stop.stop_requested()) throw Interrupted("stopped before anything was captured");
}

bool wanted(const BackupRequest& request, const std::string& target) {
  const auto in = [&](const std::vector<std::string>& list) {
    return std::find(list.begin(), list.end(), target) != list.end();
  };
  return (request.disks.empty() || in(request.disks)) && !in(request.exclude);
}

/// The domain's disks that the request covers; what it leaves out becomes a warning.
std::vector<DomainDisk> choose_disks(Run& run, const Domain& domain) {
  const std::vector<DomainDisk> all = domain.disks();
  for (const auto* list : {&run.request.disks, &run.request.exclude})
    for (const std::string& target : *list)
      if (std::none_of(all.begin(), all.end(), [&](const DomainDisk& d) { return d.target == target; }))
        throw NotFound(fmt::format("domain {} has no disk {} that could be captured", domain.name(), target),
                       "see virsh domblklist");
  std::vector<DomainDisk> chosen;
  for (const DomainDisk& disk : all) {
    if (wanted(run.request, disk.target))
      chosen.push_back(disk);
    else
      run.manifest.warnings.push_back(fmt::format("disk {} is left out as asked", disk.target));
  }
  for (const DomainDisk& disk : chosen)
    if (disk.rbd && disk.rbd->encrypted)
      run.manifest.warnings.push_back(fmt::format(
          "disk {} is encrypted: it is captured as it lies in the image, and no files are read", disk.target));
  for (const SkippedDisk& skipped : domain.skipped_disks())
    run.manifest.warnings.push_back(fmt::format("disk {} is left out: {}", skipped.target, skipped.reason));
  if (chosen.empty()) throw NotFound(fmt::format("domain {} has no disk to capture", domain.name()));
  return chosen;
}

void prepare(Run& run, std::unique_ptr<AgentClient>& agent) {
  if (!agent) return;
  run.evidence.agent_fault = fault_in([&] {
    const AgentClient::Prepared prepared =
        agent->prepare(run.manifest.id, Deadline(prepare_limit), run.request.max_freeze);
    run.clusters = prepared.clusters;
    for (const std::string& warning : prepared.warnings)
      run.manifest.warnings.push_back("agent: " + warning);
    for (const std::string& database : unready_databases(prepared))
      run.manifest.warnings.push_back(database);
  });
  if (!run.evidence.agent_fault.empty()) agent.reset();
}

/// The nodes of a database cluster stand still one after the other, so that it never lacks two.
Repository::Locks hold_clusters(Run& run) {
  if (run.clusters.empty()) return {};
  try {
    return run.repository.lock_clusters(run.clusters, Deadline(cluster_limit), run.stop);
  } catch (const Locked&) {
    throw Locked(fmt::format("another node of a database cluster of {} is being captured ({})", run.manifest.domain,
                             fmt::join(run.clusters, ", ")),
                 "try again when that still point is taken");
  }
}

[[noreturn]] void refuse(Grade required, const Judgement& judgement) {
  throw QuiesceError(fmt::format("the still point would be of grade {}, {} is required: {}", to_string(judgement.grade),
                                 to_string(required), fmt::join(judgement.reasons, "; ")),
                     fmt::format("look at the guest, or accept less with --require {}", to_string(judgement.grade)));
}

/// The grade below which nothing is to be kept; refused at once when the guest cannot have it.
Grade required_grade(Run& run) {
  const Judgement offered = offered_grade(run.evidence);
  const Grade required = run.request.require.value_or(offered.grade);
  if (offered.grade < required) refuse(required, offered);
  if (!run.request.require)
    run.progress.note(
        offered.reasons.empty()
            ? fmt::format("requiring grade {}: the agent answers", to_string(required))
            : fmt::format("requiring grade {} only: {}", to_string(required), fmt::join(offered.reasons, "; ")));
  return required;
}

/// The instant: all disks at once while the guest stands still, and not a moment longer.
void take_instant(Run& run, const Domain& domain, DiskInstant& disks, Grade required) {
  WindowRecord& window = run.manifest.window;
  const auto take_disks = [&] {
    pause_for_test("begin-job");
    run.manifest.instant = wall_now();
    disks.take();
    window.disk_snapshots = disks.took();
  };
  std::unique_ptr<FrozenGuest> frozen;
  const auto freeze = [&] { frozen = std::make_unique<FrozenGuest>(domain, run.request.max_freeze); };
  if (!run.evidence.guest_agent_fault.empty())
    run.evidence.freeze_fault = run.evidence.guest_agent_fault;
  else if (required > Grade::crash)
    freeze();
  else
    run.evidence.freeze_fault = fault_in(freeze);
  if (!frozen) return take_disks();
  run.evidence.status_fault = frozen->why_not_frozen();
  take_disks();
  if (run.evidence.status_fault.empty()) run.evidence.status_fault = frozen->why_not_frozen();
  pause_for_test("thaw");
  frozen->thaw();
  record_window(*frozen, window, run.evidence);
}

/// What the agent says was written before the instant must lie in the block snapshot.
void look_for_report(Run& run, const std::vector<DiskSource>& disks, const std::vector<GuestFileSystem>& mounted) {
  if (!run.evidence.report || run.evidence.frozen == 0) return;
  const ReportCopy copy = find_report_copy(*run.evidence.report, disks, mounted);
  if (copy.state == ReportCopy::State::absent) run.evidence.copy_fault = copy.reason;
  if (copy.state == ReportCopy::State::unknown)
    run.manifest.warnings.push_back(
        fmt::format("the agent's report was not looked for in the block snapshot: {}", copy.reason));
}

void grade(Run& run, Grade required) {
  Judgement judgement = judge(run.evidence);
  if (judgement.grade < required) refuse(required, judgement);
  run.manifest.grade = judgement.grade;
  run.manifest.grade_reasons = std::move(judgement.reasons);
}

/// The same disks, read no faster than the operator allows. Dumps are not slowed down: databases hold their snapshots
/// for them.
std::vector<DiskSource> limited(const Run& run, std::vector<DiskSource> disks) {
  if (run.request.limit == 0) return disks;
  const auto limit = std::make_shared<RateLimit>(run.request.limit, run.stop);
  for (DiskSource& disk : disks)
    disk.open = [open = std::move(disk.open), limit] { return std::make_unique<LimitedReader>(open(), limit); };
  return disks;
}

/// Another host may back up a domain of the same name in the same second: the later one takes the next name.
void commit_by_free_name(Run& run, TreeDirectory* trees) {
  Manifest& manifest = run.manifest;
  constexpr unsigned tries = 5;
  for (unsigned taken = 0;; ++taken) {
    manifest.name = run.repository.free_name(manifest.domain, manifest.instant, taken);
    try {
      if (trees != nullptr) trees->publish(manifest.name, manifest.trees);
      return run.repository.commit(manifest);
    } catch (const StorageError&) {
      const bool is_taken = run.repository.contains(manifest.name) || (trees != nullptr && trees->finds(manifest.name));
      if (taken == tries || !is_taken) throw;
    }
  }
}

/// Reads every level in parallel, and commits. The manifest is the last thing that is written.
void capture_and_commit(Run& run, const std::vector<DiskSource>& sources, const std::vector<GuestFileSystem>& mounted,
                        AgentClient* agent, const std::function<void()>& check_source) {
  Manifest& manifest = run.manifest;
  const std::vector<DiskSource> disks = limited(run, sources);
  // A tree is plain files: nothing for a repository that is encrypted. `files` reads from the disks there.
  const auto directory = run.repository.encrypted() ? std::nullopt : run.repository.directory();
  std::optional<TreeDirectory> trees;
  if (run.request.trees && directory) trees.emplace(*directory, manifest.id);
  const Manifest* const parent = run.parent ? &*run.parent : nullptr;
  {
    TaskGroup tasks(run.stop);
    if (agent != nullptr && manifest.report && run.request.dumps)
      capture_dumps(tasks, run.repository, *agent, run.progress, manifest);
    capture_disks(tasks, run.repository, disks, run.request.parallel, run.progress, manifest.disks);
    if (trees)
      capture_trees(tasks, disks, mounted,
                    {run.request.tree_filter, run.request.appliance_trees, run.request.kernel_trees}, parent,
                    *directory, *trees, run.progress, manifest.trees, manifest.warnings);
    tasks.wait();
  }
  store_state(run.repository, std::move(run.state), manifest);
  pause_for_test("commit");
  check_source();
  commit_by_free_name(run, trees ? &*trees : nullptr);
  if (trees) trees->keep();
}

void note_parent(Run& run, const std::vector<DiskSource>& sources) {
  if (std::any_of(sources.begin(), sources.end(), [](const DiskSource& s) { return s.base.has_value(); }))
    run.manifest.parent = run.parent->id;
}

/// The still point is safe from here on: what fails now costs the next backup time, not this one its success.
void keep_bases(const Run& run, DiskInstant& disks) {
  try {
    disks.keep();
  } catch (const Error& e) {
    log_warning("the next backup of {} will read disks in full: {}", run.manifest.domain, e.what());
  }
}

/// Nothing held the guest's writers, and the disks were taken one after the other.
void warn_of_several_instants(Run& run, const DiskInstant& disks) {
  if (run.evidence.frozen == 0 && !disks.is_atomic())
    run.manifest.warnings.push_back("the guest was not frozen, and its disks were captured some milliseconds apart");
}

void back_up_running(Run& run, const Domain& domain) {
  Manifest& manifest = run.manifest;
  require_no_job(domain);  // before its agent is disturbed
  if (!wait_for_earlier_guards(domain, Deadline(guard_limit)))
    log_warning("a process of an earlier backup still tries to thaw {}", domain.name());
  DiskInstant disks({domain, choose_disks(run, domain), run.repository, run.parent ? &*run.parent : nullptr,
                     run.request.full, manifest.id, true, run.request.scratch});
  auto agent = meet_agent(domain, run.evidence);
  disks.plan();
  const std::vector<GuestFileSystem> mounted =
      run.evidence.guest_agent_fault.empty() ? domain.guest_file_systems() : std::vector<GuestFileSystem>();

  // Scratch files are made before the agent is asked: what it has prepared, and the disks that it has synced, are soon
  // out of date.
  pause_for_test("prepare");
  prepare(run, agent);
  const Grade required = required_grade(run);
  check_stop(run);

  Repository::Locks clusters = hold_clusters(run);
  disks.prepare();
  pause_for_test("freeze");
  take_instant(run, domain, disks, required);
  // Some milliseconds later, for nothing that can hang has a place in the window.
  run.state = read_state(run.places, true);
  pause_for_test("report");
  disks.settle();
  disks.check();  // of a guest that was shut off meanwhile a grade would tell nothing
  warn_of_several_instants(run, disks);
  const std::vector<DiskSource> sources = disks.sources();
  if (agent) fetch_report(*agent, manifest.id, manifest.window, run.evidence);
  manifest.report = run.evidence.report;
  clusters.clear();
  look_for_report(run, sources, mounted);
  grade(run, required);

  pause_for_test("read");
  manifest.checkpoint = disks.checkpoint();
  note_parent(run, sources);
  capture_and_commit(run, sources, mounted, agent.get(), [&] { disks.check(); });
  pause_for_test("end-job");
  keep_bases(run, disks);
}

/// Throws CaptureError when one of these files has been written to since.
class WriteWatch {
 public:
  explicit WriteWatch(const std::vector<DiskImage>& images) {
    for (const DiskImage& image : images)
      seen_.emplace_back(image.path, state_of(image.path));
  }
  void check() const {
    for (const auto& [path, state] : seen_)
      if (state_of(path) != state)
        throw CaptureError(fmt::format("{} was written to while it was read", path.native()),
                           "try again while nobody uses it, or while its domain runs under libvirt");
  }

 private:
  /// A block device tells nothing, and is always the same.
  using State = std::tuple<std::time_t, long, std::uint64_t>;
  static State state_of(const std::filesystem::path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
    return {status.st_mtim.tv_sec, status.st_mtim.tv_nsec, static_cast<std::uint64_t>(status.st_size)};
  }

  std::vector<std::pair<std::filesystem::path, State>> seen_;
};

std::unique_ptr<QueuedReader> open_image(const DiskImage& image) {
  // A raw image needs nobody who understands it, and half of the time goes to a server between.
  if (image.format == "raw") return std::make_unique<RawImage>(image.path);
  return std::make_unique<NbdDisk>(NbdDisk::image(image.path, image.format));
}

std::vector<DiskSource> sources_of(const std::vector<DiskImage>& images, const std::string& full_reason) {
  std::vector<DiskSource> sources;
  for (const DiskImage& image : images)
    sources.push_back({image.target, image.path.native(), image.format, full_reason, std::nullopt,
                       [image] { return open_image(image); }});
  return sources;
}

/// Of disks that nobody writes to the grade is known before they are read.
void grade_at_rest(Run& run, const std::string& why) {
  run.manifest.instant = wall_now();
  run.state = read_state(run.places, false);
  run.evidence.at_rest = why;
  grade(run, required_grade(run));
}

void back_up_images(Run& run, const std::vector<DiskImage>& images) {
  const std::string why = "an image without a guest";
  const WriteWatch watch(images);
  grade_at_rest(run, why);
  capture_and_commit(run, sources_of(images, why), {}, nullptr, [&] { watch.check(); });
}

void back_up_shut_off(Run& run, const Domain& domain) {
  const std::string why = "the domain is shut off";
  const std::vector<DomainDisk> chosen = choose_disks(run, domain);
  std::vector<DiskImage> images;
  for (const DomainDisk& disk : chosen)
    if (!disk.rbd) images.push_back({disk.target, disk.source, disk.format});
  const WriteWatch watch(images);
  DiskInstant disks({domain,
                     chosen,
                     run.repository,
                     run.parent ? &*run.parent : nullptr,
                     run.request.full,
                     run.manifest.id,
                     false,
                     {}});
  const auto check_shut_off = [&] {
    if (domain.running())
      throw CaptureError(fmt::format("{} was started while its disks were read", domain.name()), "try again");
  };
  disks.plan();
  disks.prepare();
  grade_at_rest(run, why);
  disks.take();
  check_shut_off();
  disks.settle();
  std::vector<DiskSource> sources = disks.sources();
  // Without a checkpoint: that of the parent would belong to an older map, and to a copy of the image that somebody may
  // put back.
  for (DiskSource& source : sources_of(images, why))
    sources.push_back(std::move(source));
  const auto place_of = [&](const DiskSource& source) {
    return std::ranges::find(chosen, source.target, &DomainDisk::target) - chosen.begin();
  };
  std::ranges::sort(sources, {}, place_of);
  note_parent(run, sources);
  capture_and_commit(run, sources, {}, nullptr, [&] {
    // What lies in a snapshot stays as it was.
    if (!images.empty()) check_shut_off();
    disks.check();
    watch.check();
  });
  keep_bases(run, disks);
}

Manifest back_up(const BackupRequest& request, Repository& repository, Progress& progress,
                 const std::stop_token& stop) {
  Run run{request, repository, progress, stop, {}, {}, {}, {}};
  run.manifest.id = random_id();
  run.manifest.domain = request.domain;
  run.manifest.program_version = STILLPOINT_VERSION;
  if (!request.images.empty()) {
    static_cast<void>(repository.free_name(request.domain, wall_now()));  // refuses a bad name before the work
    run.parent = latest(repository, request.domain);
    back_up_images(run, request.images);
    return run.manifest;
  }
  Connection libvirt(request.uri);
  const Domain domain = libvirt.domain(request.domain);
  run.manifest.domain = domain.name();
  run.manifest.domain_uuid = domain.uuid();
  run.manifest.domain_xml = domain.xml();
  run.parent = latest(repository, domain.name());
  // Another domain of the same name: nothing of it can be a base.
  if (run.parent && run.parent->domain_uuid != domain.uuid()) run.parent.reset();
  const bool running = domain.running();
  run.places = state_places(run.manifest.domain_xml, libvirt.tpm_root(), running);
  if (running)
    back_up_running(run, domain);
  else
    back_up_shut_off(run, domain);
  return run.manifest;
}

}  // namespace

Manifest take_still_point(const BackupRequest& request, Repository& repository, Progress& progress,
                          const std::stop_token& stop) {
  try {
    return back_up(request, repository, progress, stop);
  } catch (const StorageError&) {
    // What was unfinished goes with the lease: that is the better reason.
    repository.check_lease();
    throw;
  }
}

}  // namespace stillpoint
