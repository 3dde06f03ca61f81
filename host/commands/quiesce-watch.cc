// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/bounded-call.hh"
#include "common/log.hh"
#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/rbd-disks.hh"
#include "host/commands/shared-window.hh"
#include "host/guest/connection.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds look_after_domain = 2s;
/// How often an image is asked for something, to notice that the cluster has cut this client off.
constexpr std::chrono::milliseconds look_after_images = 5s;
constexpr std::chrono::milliseconds image_answer_limit = 1s;
/// The guest's own watchdog thaws at 20 s, and would spoil the snapshot unseen.
constexpr std::chrono::milliseconds longest_window = 15s;
constexpr std::chrono::milliseconds shortest_window = 100ms;

struct QuiesceWatchOptions {
  std::string domain;
  std::vector<std::string> images;
  CephAddress ceph;
  std::string require;
  std::string max_freeze;
  bool best_effort = false;
};

SharedWindow::Terms terms_of(const QuiesceWatchOptions& options) {
  SharedWindow::Terms terms;
  terms.best_effort = options.best_effort;
  if (!options.require.empty()) terms.least = parse_grade(options.require);
  if (terms.least == Grade::crash)
    throw UsageError("a snapshot of grade crash needs nobody who watches", "--best-effort accepts it where it must be");
  if (!options.max_freeze.empty()) terms.most = parse_duration(options.max_freeze);
  if (terms.most < shortest_window || terms.most > longest_window)
    throw UsageError(
        fmt::format("--max-freeze is from {} to {}", format_duration(shortest_window), format_duration(longest_window)),
        "the watchdog in the guest thaws after 20 s, whatever is said here");
  return terms;
}

/// One image, and librbd's wish that nobody writes to it passed on to the window. Going out of scope ends it, and
/// waits for the answers that librbd still waits for.
class WatchedImage {
 public:
  WatchedImage(std::shared_ptr<RbdImage> image, SharedWindow& window)
      : name_(to_string(image->place())), image_(std::move(image)) {
    // It may be asked for before watch() returns.
    const std::shared_future<QuiesceWatch*> watch = made_.get_future().share();
    watch_ = image_->watch(
        {.quiesce = [this, &window,
                     watch] { window.quiesce(name_, [watch](int error) { watch.get()->answer(error); }); },
         .unquiesce = [this, &window] { window.unquiesce(name_); }});
    made_.set_value(watch_.get());
  }
  WatchedImage(const WatchedImage&) = delete;
  WatchedImage& operator=(const WatchedImage&) = delete;
  ~WatchedImage() = default;

  /// Throws CephError when this client was cut off from the cluster: librbd does not watch again then.
  void check();

 private:
  std::string name_;
  std::shared_ptr<RbdImage> image_;
  std::promise<QuiesceWatch*> made_;
  std::unique_ptr<QuiesceWatch> watch_;  ///< ends before the image does
  std::future<void> asked_;
  SteadyClock::time_point asked_at_;
  bool silent_ = false;
};

void WatchedImage::check() {
  if (!asked_.valid()) {
    if (SteadyClock::now() < asked_at_ + look_after_images) return;
    asked_at_ = SteadyClock::now();
    // In a thread of its own: a cluster that is down answers after a minute and a half, and a signal must not wait.
    std::packaged_task<void()> task([image = image_] { static_cast<void>(image->metadata()); });
    asked_ = task.get_future();
    run_detached(std::move(task));
  }
  if (asked_.wait_for(silent_ ? 0ms : image_answer_limit) != std::future_status::ready) {
    if (!std::exchange(silent_, true))
      log_warning("{}: the cluster does not answer; the watch goes on when it does", name_);
    return;
  }
  try {
    asked_.get();
    if (std::exchange(silent_, false)) log_info("{}: the cluster answers again", name_);
  } catch (const CephError& e) {
    if (e.code() != ETIMEDOUT) throw;
  }
}

/// An image and how its cluster is reached.
struct WatchedPlace {
  CephAddress address;
  RbdPlace place;

  bool operator==(const WatchedPlace&) const = default;
};

class Watch {
 public:
  Watch(const QuiesceWatchOptions& options, const Invocation& invocation);

  void run(const std::stop_token& stop);

 private:
  [[nodiscard]] std::vector<WatchedPlace> places() const;
  [[nodiscard]] std::optional<std::vector<WatchedPlace>> wanted();
  [[nodiscard]] std::shared_ptr<RbdImage> open(const WatchedPlace& place, RbdAccess access);
  void watch(const std::vector<WatchedPlace>& places);
  void tell(const std::vector<std::string>& images, const WindowWorth& worth) const;
  void tell_state() const;

  struct Entry {
    WatchedPlace place;
    std::unique_ptr<WatchedImage> image;
  };

  bool json_;
  Connection libvirt_;
  Domain domain_;
  std::vector<WatchedPlace> named_;  ///< by the command line; empty: the domain's disks
  std::vector<std::pair<CephAddress, std::shared_ptr<CephCluster>>> clusters_;
  bool libvirt_silent_ = false;
  SharedWindow window_;
  std::vector<Entry> watched_;  ///< none while the domain does not run
};

std::vector<WatchedPlace> named_places(const QuiesceWatchOptions& options) {
  std::vector<WatchedPlace> places;
  for (const std::string& text : options.images)
    if (WatchedPlace place{options.ceph, parse_rbd_place(text)}; std::ranges::count(places, place) == 0)
      places.push_back(std::move(place));
  if (places.empty() && !(options.ceph == CephAddress()))
    throw UsageError("--ceph-conf and --ceph-user are for --image", "the domain says how its own disks are reached");
  return places;
}

Watch::Watch(const QuiesceWatchOptions& options, const Invocation& invocation)
    : json_(invocation.json),
      libvirt_(invocation.libvirt_uri),
      domain_(libvirt_.domain(options.domain)),
      named_(named_places(options)),
      window_(domain_, terms_of(options),
              [this](const std::vector<std::string>& images, const WindowWorth& worth) { tell(images, worth); }) {
  const std::vector<WatchedPlace> all = places();
  if (all.empty())
    throw NotFound(fmt::format("domain {} has no disk on Ceph RBD", domain_.name()),
                   "see virsh domblklist; or name its images: --image POOL/IMAGE");
  for (const WatchedPlace& place : all)
    static_cast<void>(open(place, RbdAccess::read));
}

std::vector<WatchedPlace> Watch::places() const {
  if (!named_.empty()) return named_;
  std::vector<WatchedPlace> places;
  for (const DomainDisk& disk : domain_.disks())
    if (disk.rbd)
      places.push_back({ceph_address(domain_, *disk.rbd), {disk.rbd->pool, disk.rbd->name_space, disk.rbd->image}});
  return places;
}

/// None while the domain does not run: an image that somebody watches cannot be removed. Empty while libvirt does not
/// tell.
std::optional<std::vector<WatchedPlace>> Watch::wanted() {
  try {
    std::vector<WatchedPlace> all;
    if (domain_.running()) all = places();
    if (std::exchange(libvirt_silent_, false)) log_info("libvirt answers again");
    return all;
  } catch (const Unreachable& e) {
    if (!std::exchange(libvirt_silent_, true)) log_warning("{}; trying again", e.what());
  } catch (const CaptureError& e) {
    log_debug("{}", e.what());  // it was shut off, or a disk went, while we looked
  }
  return std::nullopt;
}

std::shared_ptr<RbdImage> Watch::open(const WatchedPlace& place, RbdAccess access) {
  auto known = std::ranges::find_if(clusters_, [&](const auto& one) { return one.first == place.address; });
  if (known == clusters_.end()) known = clusters_.insert(clusters_.end(), {place.address, connect_ceph(place.address)});
  return known->second->rbd_pool(place.place.pool, place.place.name_space)->open(place.place.image, access);
}

void Watch::watch(const std::vector<WatchedPlace>& places) {
  const auto is_watched = [this](const WatchedPlace& place) {
    return std::ranges::any_of(watched_, [&](const Entry& entry) { return entry.place == place; });
  };
  const std::size_t gone =
      std::erase_if(watched_, [&](const Entry& entry) { return std::ranges::count(places, entry.place) == 0; });
  bool changed = gone != 0;
  for (const WatchedPlace& place : places) {
    if (is_watched(place)) continue;
    watched_.push_back({place, std::make_unique<WatchedImage>(open(place, RbdAccess::write), window_)});
    changed = true;
  }
  if (changed) tell_state();
}

void Watch::run(const std::stop_token& stop) {
  const std::stop_callback close(stop, [this] { window_.close(); });
  std::mutex mutex;
  std::condition_variable_any never;
  if (!domain_.running()) tell_state();
  while (!stop.stop_requested()) {
    if (const auto places = wanted()) watch(*places);
    for (Entry& entry : watched_)
      entry.image->check();
    std::unique_lock lock(mutex);
    never.wait_for(lock, stop, look_after_domain, [] { return false; });
  }
}

void Watch::tell_state() const {
  std::vector<std::string> images;
  for (const Entry& entry : watched_)
    images.push_back(to_string(entry.place.place));
  if (json_)
    print_result(
        dump_json(
            {{"event", images.empty() ? "waiting" : "watching"}, {"domain", domain_.name()}, {"images", images}}) +
        '\n');
  else if (images.empty())
    print_result(fmt::format("{} does not run, or has no such disk now: waiting for it\n", printable(domain_.name())));
  else
    print_result(fmt::format("snapshots of {} freeze {}\n", printable(fmt::format("{}", fmt::join(images, ", "))),
                             printable(domain_.name())));
}

void Watch::tell(const std::vector<std::string>& images, const WindowWorth& worth) const {
  const WindowRecord& window = worth.window;
  if (json_)
    return print_result(dump_json({{"event", "snapshot"},
                                   {"domain", domain_.name()},
                                   {"images", images},
                                   {"id", worth.id},
                                   {"grade", to_string(worth.judgement.grade)},
                                   {"grade_reasons", worth.judgement.reasons},
                                   {"window_us", window.total.count()},
                                   {"freeze_us", window.freeze.count()},
                                   {"barrier_us", window.barrier.count()},
                                   {"thaw_us", window.thaw.count()},
                                   {"frozen", window.frozen},
                                   {"thawed", window.thawed}}) +
                        '\n');
  print_result(fmt::format("{}: a snapshot of {} is of grade {}; window {} (freeze {}, thaw {})\n",
                           printable(domain_.name()), printable(fmt::format("{}", fmt::join(images, ", "))),
                           to_string(worth.judgement.grade), format_duration(window.total),
                           format_duration(window.freeze), format_duration(window.thaw)));
}

ExitCode quiesce_watch(const QuiesceWatchOptions& options, const Invocation& invocation) {
  static_cast<void>(terms_of(options));  // before anything is asked
  static_cast<void>(named_places(options));
  Watch(options, invocation).run(invocation.stop);
  return ExitCode::success;
}

}  // namespace

RunVerb add_quiesce_watch(CLI::App& parser) {
  const auto options = std::make_shared<QuiesceWatchOptions>();
  parser.add_option("DOMAIN", options->domain, "the domain's name")->required();
  parser.add_option("--image", options->images, "watch this RBD image; may be given again (the domain's disks)")
      ->type_name("POOL/[NAMESPACE/]IMAGE")
      ->allow_extra_args(false);
  parser.add_option("--ceph-conf", options->ceph.conf, "how the images' cluster is reached (/etc/ceph/ceph.conf)")
      ->type_name("FILE");
  parser.add_option("--ceph-user", options->ceph.user, "who to be there: cinder for client.cinder (admin)")
      ->type_name("ID");
  auto* const require =
      parser.add_option("--require", options->require, "refuse snapshots of less than this grade (filesystem)")
          ->type_name("application|filesystem");
  parser.add_flag("--best-effort", options->best_effort, "never refuse one: log that it is of grade crash")
      ->excludes(require);
  parser.add_option("--max-freeze", options->max_freeze, "thaw after so long, whatever becomes of the snapshot (10s)")
      ->type_name("DURATION");
  parser.footer(
      "Watches until it is interrupted; every snapshot of the images, whoever takes it, freezes the guest first.\n"
      "Options of every verb: stillpoint --help");
  return [options](const Invocation& invocation) { return quiesce_watch(*options, invocation); };
}

}  // namespace stillpoint
