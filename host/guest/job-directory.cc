// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/job-directory.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

namespace stillpoint {

namespace {

constexpr std::string_view name_begin = "stillpoint-job-";
constexpr std::string_view lock_name = "owner.lock";

}  // namespace

JobDirectory::JobDirectory(const std::filesystem::path& scratch, const std::optional<UserAndGroup>& owner) {
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
    // Searchable for root's helpers, writable for QEMU, which makes the socket in it.
    if (::chmod(path_.c_str(), 0711) != 0) throw_errno<CaptureError>("cannot change the mode of " + name);
    if (owner && ::geteuid() == 0 && ::chown(path_.c_str(), owner->user, owner->group) != 0)
      throw_errno<CaptureError>("cannot give QEMU's user the directory " + name);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    throw;
  }
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
