// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/output-file.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace stillpoint {

namespace {

[[noreturn]] void throw_exists(const std::filesystem::path& path) {
  throw UsageError(fmt::format("{} exists", path.native()), "name another file, or use --overwrite");
}

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

void check_output_path(const std::filesystem::path& path, bool overwrite) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    throw_storage_errno(fmt::format("cannot use {}", path.native()), errno);
  }
  if (!S_ISREG(status.st_mode)) throw UsageError(fmt::format("{} is not a regular file", path.native()));
  if (!overwrite) throw_exists(path);
}

void rename_new(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (rename_without_replacing(from, to) == 0) return;
  if (errno == EEXIST) throw UsageError(fmt::format("{} exists", to.native()), "name another target");
  throw_storage_errno(fmt::format("cannot make {}", to.native()), errno);
}

OutputFile::OutputFile(std::filesystem::path target, bool overwrite)
    : target_(std::move(target)), overwrite_(overwrite) {
  check_output_path(target_, overwrite_);
  temporary_ = target_.native() + ".XXXXXX";
  fd_.reset(::mkostemp(temporary_.data(), O_CLOEXEC));
  if (!fd_) throw_storage_errno(fmt::format("cannot make a file beside {}", target_.native()), errno);
}

OutputFile::~OutputFile() {
  if (fd_) ::unlink(temporary_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
  write_all(fd_.get(), bytes, target_.native());
}

void OutputFile::commit() {
  sync_file(fd_.get(), target_.native());
  if (overwrite_) {
    if (::rename(temporary_.c_str(), target_.c_str()) != 0)
      throw_storage_errno(fmt::format("cannot make {}", target_.native()), errno);
  } else {
    rename_new(temporary_, target_);
  }
  fd_.reset();
  sync_directory(directory_of(target_));
}

}  // namespace stillpoint
