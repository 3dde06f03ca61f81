// SPDX-License-Identifier: LGPL-2.1-or-later
// Uses host/guest on a real domain, one step at a time: what tests with a guest need and the commands do not show.
#include "common/errors.hh"
#include "host/guest/agent-client.hh"
#include "host/guest/backup-job.hh"
#include "host/guest/connection.hh"
#include "host/guest/freeze-window.hh"
#include "host/guest/thaw-guard.hh"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace stillpoint;
using namespace std::chrono_literals;
using Arguments = std::vector<std::string>;

template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(format, std::forward<Args>(args)...);
  std::putchar('\n');
  std::fflush(stdout);
}

/// Waits for a line, so that a test decides what happens meanwhile; empty at the end of the input.
std::string next_line() {
  std::string line;
  std::getline(std::cin, line);
  return line;
}

void info(const Domain& domain, const Arguments& /*arguments*/) {
  say("name {} uuid {} running {}", domain.name(), domain.uuid(), domain.running());
  for (const DomainDisk& disk : domain.disks())
    say("disk {} {} {} size {} bitmap {}", disk.target, disk.format, disk.source, disk.size, disk.dirty_bitmap);
  for (const SkippedDisk& disk : domain.skipped_disks())
    say("skipped {}: {}", disk.target, disk.reason);
  say("guest-agent-fault '{}'", domain.guest_agent_fault());
  for (const GuestFileSystem& fs : domain.guest_file_systems())
    say("fs {} {} {} {}", fs.mount_point, fs.device, fs.type, fmt::join(fs.targets, ","));
}

void freeze(const Domain& domain, const Arguments& /*arguments*/) {
  FrozenGuest frozen(domain);
  say("frozen {} in {} us", frozen.frozen(), frozen.freeze_took().count());
  next_line();
  frozen.thaw();
  say("thawed {} in {} us window {} us", frozen.thawed(), frozen.thaw_took().count(), frozen.window().count());
}

/// SCRATCH NEW BASE KNOWN...: BASE is - for none.
void backup(const Domain& domain, const Arguments& arguments) {
  const std::string base = arguments.at(2) == "-" ? std::string() : arguments[2];
  BackupPlan plan = plan_backup(domain, arguments.at(1), base, {arguments.begin() + 3, arguments.end()});
  BackupJob job(domain, std::move(plan), arguments.at(0));
  {
    FrozenGuest frozen(domain);
    job.begin();
    frozen.thaw();
    say("freeze {} us begin {} us thaw {} us window {} us", frozen.freeze_took().count(), job.start_took().count(),
        frozen.thaw_took().count(), frozen.window().count());
  }
  for (const BackupDisk& disk : job.plan().disks) {
    const BackupJob::Export exported = job.export_of(disk.target);
    say("export {} {} {} '{}'", exported.name, exported.socket.native(), exported.dirty_bitmap, disk.full_reason);
  }
  say("ready");
  for (std::string line = next_line(); !line.empty(); line = next_line()) {
    if (line == "check") {
      job.check();
      say("checked");
    } else if (line == "keep") {
      job.keep_checkpoint(base);
      say("kept {}", job.plan().checkpoint);
    }
  }
}

class CountingSink : public DumpSink {
 public:
  explicit CountingSink(std::string name) : name_(std::move(name)) {}
  void write(std::span<const std::byte> bytes) override { bytes_ += bytes.size(); }
  void end(const std::string& failure) override { say("dump {} bytes {} failure '{}'", name_, bytes_, failure); }

 private:
  std::string name_;
  std::uint64_t bytes_ = 0;
};

long elapsed_ms(SteadyClock::time_point begun) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun).count();
}

/// NAME...: the dumps to stream.
void agent(const Domain& domain, const Arguments& arguments) {
  auto begun = SteadyClock::now();
  {
    AgentClient client(domain, Deadline(20s));
    say("agent {} after {} ms", client.agent_version(), elapsed_ms(begun));
    const std::string id = random_id();
    const AgentClient::Prepared prepared = client.prepare(id, Deadline(30s));
    for (const PreparedDatabase& database : prepared.databases)
      say("database {}/{}/{} ready {} {}", database.engine, database.instance, database.database, database.ready,
          database.reason);
    begun = SteadyClock::now();
    client.run_dumps(
        id, arguments, [](const std::string& name) { return std::make_unique<CountingSink>(name); }, 10s);
    say("dumps took {} ms", elapsed_ms(begun));
    begun = SteadyClock::now();
    client.finish(id);
  }
  say("finished and unplugged in {} ms", elapsed_ms(begun));
}

int run(int argc, char** argv) {
  if (argc < 4) throw UsageError("guest-driver info|freeze|backup|agent URI DOMAIN [ARGUMENT...]");
  const std::string_view verb = argv[1];
  const Domain domain = Connection(argv[2]).domain(argv[3]);
  const Arguments arguments(argv + 4, argv + argc);
  if (verb == "info") info(domain, arguments);
  if (verb == "freeze") freeze(domain, arguments);
  if (verb == "backup") backup(domain, arguments);
  if (verb == "agent") agent(domain, arguments);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && argv[1] == stillpoint::thaw_guard_verb) return stillpoint::thaw_guard_main(argc, argv);
  try {
    return run(argc, argv);
  } catch (const stillpoint::Error& error) {
    fmt::print(stderr, "error: {}\nhint: {}\n", error.what(), error.hint());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
