// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/log.hh"
#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/shared-window.hh"
#include "host/guest/bounded-call.hh"
#include "host/guest/connection.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cerrno>
#include <condition_variable>
#include <future>
#include <map>
#include <memory>
#include <mutex>
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

class Watch {
 public:
  Watch(const QuiesceWatchOptions& options, const Invocation& invocation);

  void run(const std::stop_token& stop);

 private:
  [[nodiscard]] bool domain_runs();
  [[nodiscard]] std::shared_ptr<RbdImage> open(const RbdPlace& place, RbdAccess access);
  void begin_watching();
  void tell(const std::vector<std::string>& images, const WindowWorth& worth) const;
  void tell_state(std::string_view state) const;

  bool json_;
  Connection libvirt_;
  Domain domain_;
  std::vector<RbdPlace> places_;
  std::shared_ptr<CephCluster> cluster_;
  bool libvirt_silent_ = false;
  SharedWindow window_;
  std::map<std::string, WatchedImage> watched_;  ///< none while the domain does not run
};

std::vector<RbdPlace> places_of(const QuiesceWatchOptions& options) {
  std::vector<RbdPlace> places;
  for (const std::string& text : options.images)
    places.push_back(parse_rbd_place(text));
  return places;
}

Watch::Watch(const QuiesceWatchOptions& options, const Invocation& invocation)
    : json_(invocation.json),
      libvirt_(invocation.libvirt_uri),
      domain_(libvirt_.domain(options.domain)),
      places_(places_of(options)),
      cluster_(connect_ceph(options.ceph)),
      window_(domain_, terms_of(options),
              [this](const std::vector<std::string>& images, const WindowWorth& worth) { tell(images, worth); }) {
  for (const RbdPlace& place : places_)
    static_cast<void>(open(place, RbdAccess::read));
}

std::shared_ptr<RbdImage> Watch::open(const RbdPlace& place, RbdAccess access) {
  return cluster_->rbd_pool(place.pool, place.name_space)->open(place.image, access);
}

/// What it was last, while libvirt does not tell.
bool Watch::domain_runs() {
  try {
    const bool runs = domain_.running();
    if (std::exchange(libvirt_silent_, false)) log_info("libvirt answers again");
    return runs;
  } catch (const Unreachable& e) {
    if (!std::exchange(libvirt_silent_, true)) log_warning("{}; trying again", e.what());
    return !watched_.empty();
  }
}

void Watch::begin_watching() {
  for (const RbdPlace& place : places_)
    watched_.try_emplace(to_string(place), open(place, RbdAccess::write), window_);
  tell_state("watching");
}

void Watch::run(const std::stop_token& stop) {
  const std::stop_callback close(stop, [this] { window_.close(); });
  std::mutex mutex;
  std::condition_variable_any never;
  bool told = false;
  while (!stop.stop_requested()) {
    const bool runs = domain_runs();
    // Not longer than it runs: an image that somebody watches cannot be removed.
    if (!runs) watched_.clear();
    if (!runs && !std::exchange(told, true)) tell_state("waiting");
    if (runs && watched_.empty()) {
      begin_watching();
      told = false;
    }
    for (auto& [name, image] : watched_)
      image.check();
    std::unique_lock lock(mutex);
    never.wait_for(lock, stop, look_after_domain, [] { return false; });
  }
}

void Watch::tell_state(std::string_view state) const {
  std::vector<std::string> images;
  for (const RbdPlace& place : places_)
    images.push_back(to_string(place));
  if (json_)
    print_result(dump_json({{"event", state}, {"domain", domain_.name()}, {"images", images}}) + '\n');
  else if (state == "waiting")
    print_result(fmt::format("{} does not run: waiting for it\n", printable(domain_.name())));
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
  static_cast<void>(terms_of(options));
  if (places_of(options).empty()) throw UsageError("no image is named", "use --image POOL/IMAGE");
  Watch(options, invocation).run(invocation.stop);
  return ExitCode::success;
}

}  // namespace

RunVerb add_quiesce_watch(CLI::App& parser) {
  const auto options = std::make_shared<QuiesceWatchOptions>();
  parser.add_option("DOMAIN", options->domain, "the domain's name")->required();
  parser.add_option("--image", options->images, "an RBD image of the domain; may be given again")
      ->type_name("POOL/[NAMESPACE/]IMAGE")
      ->allow_extra_args(false);
  parser.add_option("--ceph-conf", options->ceph.conf, "the cluster's configuration, instead of /etc/ceph/ceph.conf")
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
