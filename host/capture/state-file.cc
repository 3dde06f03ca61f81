// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/state-file.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

/// The firmware writes a variable in some milliseconds.
constexpr unsigned most_tries = 25;
constexpr std::chrono::milliseconds pause_between{20};

std::string name_of_user(uid_t user) {
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(user, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) return {};
  return found->pw_name;
}

bool same(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

std::string read_all(int fd, std::uint64_t size, const fs::path& path) {
  std::string content(size, '\0');
  pread_exactly(fd, std::as_writable_bytes(std::span(content)), 0, path.native());
  return content;
}

struct stat status_of(int fd, const fs::path& path, std::uint64_t limit) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_errno<CaptureError>(fmt::format("cannot look at {}", path.native()));
  if (!S_ISREG(status.st_mode)) throw CaptureError(fmt::format("{} is no regular file", path.native()));
  if (static_cast<std::uint64_t>(status.st_size) > limit)
    throw CaptureError(fmt::format("{} has {} bytes, more than {}", path.native(), status.st_size, limit));
  return status;
}

}  // namespace

std::optional<StateFile> read_state_file(const fs::path& path, std::uint64_t limit) {
  for (unsigned tried = 0; tried < most_tries; ++tried) {
    if (tried > 0) std::this_thread::sleep_for(pause_between);
    // Anew each time: a file that is replaced is another one.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
    if (!fd && errno == ENOENT) return std::nullopt;
    if (!fd) throw_errno<CaptureError>(fmt::format("cannot open {}", path.native()));
    const struct stat before = status_of(fd.get(), path, limit);
    try {
      std::string content = read_all(fd.get(), static_cast<std::uint64_t>(before.st_size), path);
      // Two times the same: nothing was written between the beginning of the one and the end of the other. Times of
      // files are too coarse to say so alone.
      const std::string again = read_all(fd.get(), static_cast<std::uint64_t>(before.st_size), path);
      if (content == again && same(before, status_of(fd.get(), path, limit)))
        return StateFile{path, name_of_user(before.st_uid), std::move(content)};
    } catch (const CaptureError&) {
      throw;
    } catch (const Error& error) {
      if (tried + 1 == most_tries) throw CaptureError(error.what());
    }
  }
  throw CaptureError(fmt::format("{} was written to all the while", path.native()));
}

std::vector<StateFile> read_state_files(const fs::path& directory, const std::string& prefix, const std::string& suffix,
                                        std::size_t most, std::uint64_t limit) {
  std::vector<fs::path> paths;
  std::error_code failure;
  if (!fs::exists(fs::symlink_status(directory, failure))) return {};
  if (!fs::is_directory(fs::symlink_status(directory, failure)))
    throw CaptureError(fmt::format("{} is no directory", directory.native()));
  for (fs::directory_iterator it(directory, failure), end; !failure && it != end; it.increment(failure)) {
    const std::string name = it->path().filename().native();
    if (!name.ends_with(suffix) || !name.starts_with(prefix)) continue;
    if (paths.size() == most) throw CaptureError(fmt::format("{} has too many files", directory.native()));
    paths.push_back(it->path());
  }
  if (failure) throw CaptureError(fmt::format("cannot read {}: {}", directory.native(), failure.message()));
  std::ranges::sort(paths);
  std::vector<StateFile> files;
  for (const fs::path& path : paths)
    if (std::optional<StateFile> file = read_state_file(path, limit)) files.push_back(std::move(*file));
  return files;
}

}  // namespace stillpoint
