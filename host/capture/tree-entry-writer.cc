// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-entry-writer.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace stillpoint {

std::string EntryWriter::write(const FilledDirectory& directory, const std::string& name, const TreeEntry& entry) {
  std::string made = name;
  Made result = make(directory, made, entry);
  if (result == Made::name_taken && keeper_.ignores_case()) {
    made = name_beside(name, entry);
    keeper_.warn_of_case(entry.path, made);
    result = make(directory, made, entry);
  }
  if (result == Made::name_taken) throw_storage_errno(fmt::format("cannot make {}", entry.path), EEXIST);
  return result == Made::yes ? made : std::string();
}

EntryWriter::Made EntryWriter::make(const FilledDirectory& directory, const std::string& name, const TreeEntry& entry) {
  const Made linked = link_to_previous(directory, name, entry);
  if (linked != Made::left_out) return linked;
  if (entry.type == EntryType::file || keeper_.fake_super()) return write_file(directory.fd(), name, entry);
  return write_special(directory.fd(), name, entry);
}

/// Left out: there is none that is the same, or it cannot be linked.
EntryWriter::Made EntryWriter::link_to_previous(const FilledDirectory& directory, const std::string& name,
                                                const TreeEntry& entry) {
  const int previous = directory.previous();
  if (previous < 0 || !keeper_.is_same(previous, name, entry)) return Made::left_out;
  if (::linkat(previous, name.c_str(), directory.fd(), name.c_str(), 0) == 0) return Made::yes;
  if (errno == EEXIST) return Made::name_taken;
  // Too many names, another file system, somebody else's file where links to those are forbidden, or deleted just now:
  // written anew.
  if (errno == EMLINK || errno == EXDEV || errno == EPERM || errno == ENOENT) return Made::left_out;
  throw_storage_errno(fmt::format("cannot link {}", entry.path), errno);
}

EntryWriter::Made EntryWriter::write_file(int directory, const std::string& name, const TreeEntry& entry) {
  UniqueFd fd(::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd && errno == EEXIST) return Made::name_taken;
  if (!fd) throw_storage_errno(fmt::format("cannot make {}", entry.path), errno);
  if (entry.type == EntryType::file) ++files_written_;
  content_.add(std::move(fd), entry);
  return Made::yes;
}

EntryWriter::Made EntryWriter::write_special(int directory, const std::string& name, const TreeEntry& entry) {
  if (entry.type == EntryType::symlink) {
    if (::symlinkat(entry.target.c_str(), directory, name.c_str()) != 0) {
      if (errno == EEXIST) return Made::name_taken;
      throw_storage_errno(fmt::format("cannot make the symbolic link {}", entry.path), errno);
    }
  } else if (::mknodat(directory, name.c_str(), type_bits(entry.type) | 0600,
                       ::makedev(entry.device_major, entry.device_minor)) != 0) {
    if (errno == EEXIST) return Made::name_taken;
    if (errno != EPERM && errno != EOPNOTSUPP)
      throw_storage_errno(fmt::format("cannot make the device {}", entry.path), errno);
    keeper_.warn("device", fmt::format("{}: left out: the target refuses device nodes", entry.path));
    return Made::left_out;
  }
  keeper_.apply(directory, name, entry);
  return Made::yes;
}

}  // namespace stillpoint
