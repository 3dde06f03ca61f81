// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/disk-check.hh"

#include "common/direct-file.hh"
#include "common/errors.hh"
#include "common/log.hh"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t read_piece = 256 << 10;
constexpr std::size_t pieces_at_once = 32;
constexpr std::uint64_t extents_window = std::uint64_t{1} << 30;
/// Of the account without rights.
constexpr gid_t nogroup = 65534;
constexpr std::chrono::seconds mount_limit{30};
constexpr std::chrono::seconds unmount_limit{10};
constexpr std::chrono::milliseconds mount_interval{20};
constexpr std::size_t most_words = 64 << 10;
/// Of what e2fsck says, how much is shown.
constexpr std::size_t most_findings = 600;

fs::path need_program(const char* name, const char* package) {
  fs::path path = program_on_path(name);
  if (path.empty()) throw ConfigError(fmt::format("there is no program {}", name), fmt::format("install {}", package));
  return path;
}

/// `command` without privileges, network or a way to get either; it ends when we do.
Program confined(const std::vector<std::string>& command) {
  Program program{.path = need_program("setpriv", "util-linux"),
                  .arguments = {},
                  .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"},
                  .user = {}};
  std::vector<std::string>& arguments = program.arguments;
  if (::geteuid() == 0) {
    program.path = need_program("unshare", "util-linux");
    arguments = {
        "--net", "--ipc", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"};
  }
  for (const char* word :
       {"--no-new-privs", "--pdeathsig=KILL", "prlimit", "--nofile=64", "--nproc=64", "--core=0", "--as=8589934592"})
    arguments.emplace_back(word);
  arguments.insert(arguments.end(), command.begin(), command.end());
  return program;
}

struct Said {
  int status = 0;  ///< as describe_status() has it
  std::string text;
};

/// Nothing when it was not over by then.
std::optional<Said> run_confined(const std::vector<std::string>& command, const Deadline& deadline,
                                 const std::stop_token& stop) {
  Pipe pipe = open_pipe("a check of a file system");
  RunningProgram program(confined(command), {.output = pipe.write_end.get(), .errors = pipe.write_end.get()});
  pipe.write_end.reset();
  Intake words(std::move(pipe.read_end), most_words, Intake::Keep::end);
  while (!program.wait(deadline.at_most(std::chrono::milliseconds(200)), {&words, 1})) {
    if (stop.stop_requested()) throw Interrupted("stopped while a file system was checked");
    if (deadline.passed()) return std::nullopt;
  }
  const int status = program.end_group();
  words.take();
  return Said{status, words.text()};
}

/// What it has found, in one line.
std::string findings(const std::string& text) {
  std::string line;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view part = std::string_view(text).substr(at, end - at);
    at = end + 1;
    if (part.empty() || part.starts_with("Pass ") || part.starts_with("e2fsck ")) continue;
    if (line.size() + part.size() > most_findings) return line + " ...";
    line += (line.empty() ? "" : "; ");
    line += part;
  }
  return line;
}

}  // namespace

std::uint64_t read_whole_disk(BlockReader& disk, CaptureProgress& progress, const std::stop_token& stop) {
  const AlignedBytes storage = allocate_aligned(pieces_at_once * read_piece);
  std::vector<BlockReader::Request> reads;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  const auto read = [&] {
    if (stop.stop_requested()) throw Interrupted("stopped while a disk was read");
    disk.pread_many(reads);
    for (const BlockReader::Request& request : reads)
      done += request.buffer.size();
    reads.clear();
    progress.advance(done, total);
  };
  for (std::uint64_t window = 0; window < disk.size();) {
    const std::vector<Extent> extents = disk.extents(window, std::min(disk.size() - window, extents_window));
    if (extents.empty()) throw Corruption("the repository does not tell what a disk holds");
    for (const Extent& extent : extents)
      total += extent.data ? extent.length : 0;
    for (const Extent& extent : extents) {
      window = extent.offset + extent.length;
      if (!extent.data) continue;
      for (std::uint64_t at = extent.offset; at < window;) {
        const std::uint64_t next = std::min(window, (at / read_piece + 1) * read_piece);
        reads.push_back(
            {at, std::span(storage.get() + reads.size() * read_piece, static_cast<std::size_t>(next - at))});
        at = next;
        if (reads.size() == pieces_at_once) read();
      }
    }
  }
  if (!reads.empty()) read();
  return done;
}

DiskFile::DiskFile(const ServedDisk& disk, std::filesystem::path directory) : directory_(std::move(directory)) {
  ServedDisk served = disk;
  served.writable = true;
  // Whoever gets at the mount reads the disk: the check, as the only one but us.
  const bool root = ::geteuid() == 0;
  if (::mkdir(directory_.c_str(), 0700) != 0 ||
      (root && (::chown(directory_.c_str(), 0, nogroup) != 0 || ::chmod(directory_.c_str(), 0710) != 0)) ||
      ::mkdir((directory_ / "mount").c_str(), 0755) != 0)
    throw_errno<StorageError>(fmt::format("cannot make the directory {}", directory_.native()));
  try {
    server_.emplace(served, ServingPlace{.socket = directory_ / "socket", .address = {}, .port = 0});
    mount();
  } catch (...) {
    fuse_.end_group();
    server_.reset();
    std::error_code ignored;
    fs::remove(directory_ / "mount", ignored);
    fs::remove(directory_, ignored);
    throw;
  }
}

void DiskFile::mount() {
  Program program{.path = need_program("setpriv", "util-linux"),
                  .arguments = {"--pdeathsig=TERM", need_program("nbdfuse", "the package libnbd-bin")},
                  .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"},
                  .user = {}};
  // So that the check, which is another user, gets at it.
  if (::geteuid() == 0) program.arguments.insert(program.arguments.end(), {"-o", "allow_other"});
  program.arguments.insert(program.arguments.end(), {path().native(), "--unix", directory_ / "socket"});
  Pipe pipe = open_pipe("nbdfuse's messages");
  fuse_ = RunningProgram(program, {.output = pipe.write_end.get(), .errors = pipe.write_end.get()});
  pipe.write_end.reset();
  messages_.emplace(std::move(pipe.read_end), most_words, Intake::Keep::end);
  const Deadline limit(mount_limit);
  std::error_code absent;
  while (!fs::exists(path(), absent)) {
    if (fuse_.wait(Deadline(mount_interval), {&*messages_, 1}))
      throw Unreachable(fmt::format("nbdfuse has ended: {}", findings(messages_->text())));
    if (limit.passed()) throw Unreachable("nbdfuse mounts nothing");
  }
}

DiskFile::~DiskFile() {
  fuse_.ask_to_end();
  if (!fuse_.wait(Deadline(unmount_limit), {&*messages_, 1}))
    log_warning("{} stays mounted", (directory_ / "mount").native());
  fuse_.end_group();
  server_.reset();
  std::error_code failure;
  fs::remove(directory_ / "mount", failure);
  if (!failure) fs::remove(directory_, failure);
  if (failure) log_warning("cannot delete {}: {}", directory_.native(), failure.message());
}

DrillStep check_ext(const std::filesystem::path& file, std::uint64_t offset, const std::string& name,
                    const Deadline& deadline, const std::stop_token& stop) {
  constexpr int uncorrected = 4;
  DrillStep step{.kind = DrillStep::Kind::file_system, .name = name, .outcome = {}, .detail = {}, .took = {}};
  const std::string program = need_program("e2fsck", "e2fsprogs");
  const std::string place = fmt::format("{}?offset={}", file.native(), offset);
  // What the guest's kernel would do first; a file system that was frozen has nothing to replay.
  std::optional<Said> said = run_confined({program, "-y", "-E", "journal_only", place}, deadline, stop);
  if (said) said = run_confined({program, "-f", "-n", place}, deadline, stop);
  step.outcome = DrillStep::Outcome::failed;
  if (!said) {
    step.detail = "e2fsck was not over in time";
  } else if (said->status == 0) {
    step.outcome = DrillStep::Outcome::passed;
    step.detail = "e2fsck -fn finds nothing wrong";
  } else {
    const bool found = WIFEXITED(said->status) && (WEXITSTATUS(said->status) & uncorrected) != 0;
    step.detail = fmt::format("e2fsck -fn {}: {}", found ? "finds it damaged" : describe_status(said->status),
                              findings(said->text));
  }
  return step;
}

}  // namespace stillpoint
