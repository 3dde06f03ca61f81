// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/state-restore.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

std::optional<UserAndGroup> user_named(const std::string& name) {
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (name.empty() || ::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr)
    return std::nullopt;
  return UserAndGroup{found->pw_uid, found->pw_gid};
}

/// Whom emulated TPMs run as: who it was, or else the names that distributions give him. Never somebody who logs in,
/// whatever a manifest says: a TPM's state is full of secrets.
std::optional<UserAndGroup> tpm_user(const std::string& recorded) {
  constexpr uid_t first_of_people = 1000;
  for (const std::string& name : {recorded, std::string("swtpm"), std::string("tss")})
    if (const auto user = user_named(name); user && user->user < first_of_people) return user;
  return std::nullopt;
}

/// Of a file that is on its way, whose directory others may write to: nothing there is followed.
void fill(int directory, const std::string& name, const LoadedState& state, const std::optional<UserAndGroup>& owner,
          const struct stat* replaced) {
  const UniqueFd fd(::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) throw_storage_errno(fmt::format("cannot make {}", name), errno);
  try {
    write_all(fd.get(), as_bytes(state.content), name);
    if (replaced != nullptr) {
      if (::fchown(fd.get(), replaced->st_uid, replaced->st_gid) != 0 ||
          ::fchmod(fd.get(), replaced->st_mode & 07777U) != 0)
        throw_storage_errno(fmt::format("cannot give {} its owner", name), errno);
    } else if (owner && ::geteuid() == 0 && ::fchown(fd.get(), owner->user, owner->group) != 0) {
      throw_storage_errno(fmt::format("cannot give {} its owner", name), errno);
    }
    sync_file(fd.get(), name);
  } catch (...) {
    ::unlinkat(directory, name.c_str(), 0);
    throw;
  }
}

}  // namespace

std::vector<LoadedState> load_state(Repository& repository, const Manifest& manifest) {
  std::vector<LoadedState> loaded;
  for (const StateRecord& record : manifest.state) {
    if (!record.failure.empty()) continue;
    LoadedState& state = loaded.emplace_back(LoadedState{record, {}});
    state.content.reserve(record.map.size);
    repository.read_dump(record.map, [&](std::span<const std::byte> bytes) {
      if (bytes.size() > record.map.size - state.content.size())
        throw Corruption(fmt::format("{} is longer than its still point says", record.name));
      state.content += as_text(bytes);
    });
    if (state.content.size() != record.map.size)
      throw Corruption(fmt::format("{} is shorter than its still point says", record.name));
  }
  return loaded;
}

StateWriter::StateWriter(const std::vector<LoadedState>& state, StateTargets targets, bool overwrite)
    : state_(state), targets_(std::move(targets)), overwrite_(overwrite) {
  for (const Written& file : files()) {
    struct stat status {};
    if (::lstat(file.path.c_str(), &status) != 0) continue;
    if (!S_ISREG(status.st_mode)) throw UsageError(fmt::format("{} is not a regular file", file.path.native()));
    if (!overwrite_)
      throw UsageError(fmt::format("{} is there already", file.path.native()), "choose another place, or --overwrite");
  }
}

StateWriter::~StateWriter() {
  for (const Prepared& file : prepared_)
    ::unlinkat(file.directory.get(), file.partial.c_str(), 0);
  for (auto it = made_.rbegin(); it != made_.rend(); ++it)
    if (::remove(it->c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY)
      log_warning("{}", errno_message(fmt::format("cannot delete {}", it->native()), errno));
}

fs::path StateWriter::path_of(const LoadedState& state) const {
  if (state.record.kind == StateRecord::Kind::nvram) return targets_.nvram;
  return targets_.tpm.empty() ? fs::path() : targets_.tpm / state.record.name;
}

std::vector<StateWriter::Written> StateWriter::files() const {
  std::vector<Written> files;
  for (const LoadedState& state : state_)
    if (fs::path path = path_of(state); !path.empty())
      files.push_back({state.record.kind, std::move(path), state.content.size()});
  return files;
}

void StateWriter::make_directory(const fs::path& directory, unsigned mode) {
  if (::mkdir(directory.c_str(), mode) == 0) {
    made_.push_back(directory);
    if (::chmod(directory.c_str(), mode) == 0) return;
  } else if (errno == EEXIST) {
    return;
  }
  throw_storage_errno(fmt::format("cannot make {}", directory.native()), errno);
}

void StateWriter::prepare_file(const LoadedState& state) {
  const fs::path path = path_of(state);
  const fs::path directory = path.parent_path();
  const bool is_tpm = state.record.kind == StateRecord::Kind::tpm;
  const auto owner = is_tpm ? tpm_user(state.record.owner) : targets_.nvram_owner;
  if (is_tpm && !fs::exists(fs::symlink_status(directory))) {
    // libvirt's are so: its programs pass through, and find their own.
    make_directory(directory.parent_path().parent_path(), 0711);
    make_directory(directory.parent_path(), 0711);
    make_directory(directory, 0700);
    if (owner && ::geteuid() == 0 && ::lchown(directory.c_str(), owner->user, owner->group) != 0)
      throw_storage_errno(fmt::format("cannot give {} its owner", directory.native()), errno);
  }
  UniqueFd where(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!where) throw_storage_errno(fmt::format("cannot open {}", directory.native()), errno);
  const std::string name = path.filename().native();
  struct stat before {};
  const bool replaces = ::fstatat(where.get(), name.c_str(), &before, AT_SYMLINK_NOFOLLOW) == 0;
  if (replaces && (!overwrite_ || !S_ISREG(before.st_mode)))
    throw UsageError(fmt::format("{} is there already", path.native()));
  std::string partial = fmt::format("{}.{}.partial", name, random_id().substr(0, 8));
  fill(where.get(), partial, state, owner, replaces ? &before : nullptr);
  prepared_.push_back({std::move(where), std::move(partial), path, replaces});
}

void StateWriter::prepare() {
  for (const LoadedState& state : state_)
    if (!path_of(state).empty()) prepare_file(state);
}

void StateWriter::complete() {
  while (!prepared_.empty()) {
    const Prepared& file = prepared_.back();
    const int where = file.directory.get();
    if (::renameat(where, file.partial.c_str(), where, file.path.filename().c_str()) != 0)
      throw_storage_errno(fmt::format("cannot name {}", file.path.native()), errno);
    if (!file.replaces) made_.push_back(file.path);
    sync_file(where, file.path.parent_path().native());
    prepared_.pop_back();
  }
}

void StateWriter::write() {
  prepare();
  complete();
}

}  // namespace stillpoint
