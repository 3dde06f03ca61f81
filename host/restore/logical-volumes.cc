// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/logical-volumes.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/program.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::chrono::seconds lvm_limit{120};
constexpr std::chrono::seconds lvm_end_limit{30};
constexpr std::size_t most_words = 64 << 10;
constexpr std::size_t longest_name = 127;  // lvm(8)

struct Ended {
  int status = 0;
  std::string output;
  std::string messages;
};

Ended run_lvm(const char* name, std::vector<std::string> arguments) {
  std::filesystem::path path = program_on_path(name);
  if (path.empty()) path = program_on_path(fmt::format("/usr/sbin/{}", name));  // which a user's PATH may lack
  if (path.empty()) throw ConfigError(fmt::format("there is no program {}", name), "install the package lvm2");
  Program program{.path = path,
                  .arguments = std::move(arguments),
                  .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"},
                  .user = {}};
  Pipe output = open_pipe(name);
  Pipe errors = open_pipe(name);
  RunningProgram running(program, {.output = output.write_end.get(), .errors = errors.write_end.get()});
  output.write_end.reset();
  errors.write_end.reset();
  std::array<Intake, 2> intakes{Intake(std::move(output.read_end), most_words, Intake::Keep::end),
                                Intake(std::move(errors.read_end), most_words, Intake::Keep::end)};
  // Not killed at once: it may be in the middle of the group's metadata.
  bool ended = running.wait(Deadline(lvm_limit), intakes);
  if (!ended) {
    running.ask_to_end();
    ended = running.wait(Deadline(lvm_end_limit), intakes);
  }
  if (!ended) throw StorageError(fmt::format("{} has not ended within {} s", name, lvm_limit.count()));
  return {running.status(), intakes[0].text(), intakes[1].text()};
}

/// What LVM says is wrong, in one line.
std::string reason(const Ended& ended) {
  std::string text = ended.messages;
  std::ranges::replace(text, '\n', ' ');
  while (text.ends_with(' '))
    text.pop_back();
  text.erase(0, text.find_first_not_of(' '));
  return text.empty() ? describe_status(ended.status) : text;
}

/// Also of what lvm(8) allows only so much that neither a device's path nor a list of options can be meant.
bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= longest_name && name.front() != '-' && name != "." && name != ".." &&
         std::ranges::all_of(name, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' || c == '_' ||
                  c == '.' || c == '-';
         });
}

std::string trimmed(std::string text) {
  text.erase(0, text.find_first_not_of(" \n"));
  text.erase(text.find_last_not_of(" \n") + 1);
  return text;
}

}  // namespace

NewVolumes::NewVolumes(std::string group, std::string thin_pool)
    : group_(std::move(group)), pool_(std::move(thin_pool)), tag_("stillpoint." + random_id()) {
  if (!is_name(group_)) throw UsageError(fmt::format("'{}' is no volume group's name", group_));
  const Ended there = run_lvm("vgs", {"--noheadings", "-o", "vg_name", group_});
  if (there.status != 0)
    throw UsageError(fmt::format("there is no volume group {}: {}", group_, reason(there)), "see vgs");
  if (pool_.empty()) return;
  if (!is_name(pool_)) throw UsageError(fmt::format("'{}' is no thin pool's name", pool_));
  const Ended pool = run_lvm("lvs", {"--noheadings", "-o", "segtype", group_ + "/" + pool_});
  if (pool.status != 0 || trimmed(pool.output) != "thin-pool")
    throw UsageError(fmt::format("there is no thin pool {} in {}", pool_, group_), "see lvs");
  const Ended zero = run_lvm("lvs", {"--noheadings", "-o", "zero", group_ + "/" + pool_});
  zeroes_ = zero.status == 0 && !trimmed(zero.output).empty() && trimmed(zero.output) != "0";
}

NewVolumes::~NewVolumes() {
  if (!made_) return;
  try {
    const Ended ended = run_lvm("lvremove", {"-q", "-y", "@" + tag_});
    if (ended.status != 0) log_warning("volumes of {} are left: {}", group_, reason(ended));
  } catch (const std::exception& error) {
    log_warning("volumes of {} are left: {}", group_, error.what());
  }
}

void NewVolumes::check_name(const std::string& name) const {
  if (!is_name(name))
    throw UsageError(fmt::format("'{}' cannot be the name of a logical volume", name), "choose another with --name");
  if (run_lvm("lvs", {"--noheadings", "-o", "lv_name", group_ + "/" + name}).status == 0)
    throw UsageError(fmt::format("there is a volume {} in {} already", name, group_),
                     "choose another name with --name, or restore into that one with --disk, --to and --overwrite");
}

std::filesystem::path NewVolumes::path_of(const std::string& name) const {
  return std::filesystem::path("/dev") / group_ / name;
}

void NewVolumes::make(const std::string& name, std::uint64_t bytes) {
  std::vector<std::string> arguments{"-q", "-y", "-n", name, "--addtag", tag_};
  constexpr std::uint64_t sector = 512;
  const std::string size = fmt::format("{}b", (bytes + sector - 1) / sector * sector);
  if (pool_.empty())
    arguments.insert(arguments.end(), {"-Zy", "-Wy", "-L", size, group_});
  else
    arguments.insert(arguments.end(), {"-V", size, "-T", group_ + "/" + pool_});
  // Also when it fails: it may have come so far.
  made_ = true;
  const Ended ended = run_lvm("lvcreate", std::move(arguments));
  if (ended.status != 0)
    throw StorageError(fmt::format("cannot make the volume {} in {}: {}", name, group_, reason(ended)),
                       "make room there, or name another volume group");
}

void NewVolumes::keep() {
  if (!made_) return;
  made_ = false;
  const Ended ended = run_lvm("lvchange", {"-q", "--deltag", tag_, "@" + tag_});
  if (ended.status != 0) log_warning("the tag {} stays on volumes of {}: {}", tag_, group_, reason(ended));
}

}  // namespace stillpoint
