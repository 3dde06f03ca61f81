// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/job-directory.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

namespace stillpoint {

namespace {

constexpr std::string_view name_begin = "stillpoint-job-";
constexpr std::string_view lock_name = "owner.lock";

}  // namespace

JobDirectory::JobDirectory(const std::filesystem::path& scratch) {
  std::string name = std::filesystem::absolute(scratch) / (std::string(name_begin) + "XXXXXX");
  if (name.size() + sizeof "/nbd.sock" > sizeof(sockaddr_un::sun_path))
    throw CaptureError(fmt::format("the path of scratch directory {} is too long for a socket in it", scratch.native()),
                       "choose one with a shorter path");
  if (::mkdtemp(name.data()) == nullptr)
    throw CaptureError(errno_message(fmt::format("cannot make a directory in {}", scratch.native()), errno),
                       "the scratch directory must exist and be writable");
  path_ = name;
  try {
    lock_ = open_file(path_ / lock_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) throw_errno<CaptureError>("cannot lock " + name);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    throw;
  }
}

void JobDirectory::give_to(const std::optional<UserAndGroup>& owner,
                           const std::vector<std::filesystem::path>& files) const {
  const auto give = [&](const std::filesystem::path& path) {
    if (owner && ::geteuid() == 0 && ::chown(path.c_str(), owner->user, owner->group) != 0)
      throw_errno<CaptureError>(fmt::format("cannot give QEMU's user {}", path.native()));
  };
  std::for_each(files.begin(), files.end(), give);
  // Searchable for root's helpers.
  if (::chmod(path_.c_str(), 0711) != 0)
    throw_errno<CaptureError>(fmt::format("cannot change the mode of {}", path_.native()));
  give(path_);  // last: as long as it is ours, what is in it is what we put there
}

JobDirectory::~JobDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path JobDirectory::abandoned(const std::filesystem::path& socket) {
  const std::filesystem::path directory = socket.parent_path();
  if (socket.filename() != "nbd.sock" || !directory.filename().native().starts_with(name_begin)) return {};
  const UniqueFd lock(::open((directory / lock_name).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  // Its owner holds the lock as long as it lives, and removes the directory after the job.
  if (!lock && errno == ENOENT) return directory;
  if (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return {};
  return directory;
}

}  // namespace stillpoint
