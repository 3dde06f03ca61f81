// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"

#include <fmt/format.h>

#include <system_error>

namespace stillpoint {

std::string errno_message(std::string_view what, int errno_value) {
  return fmt::format("{}: {}", what, std::generic_category().message(errno_value));
}

void throw_storage_errno(std::string_view what, int errno_value) {
  std::string hint;
  switch (errno_value) {
    case ENOSPC:
    case EDQUOT:
      hint = "the target is full: make room or choose another one; nothing that was complete is lost";
      break;
    case EROFS:
    case EACCES:
    case EPERM:
      hint = "the target cannot be written: check that it is mounted read-write and who you are";
      break;
    default:
      break;
  }
  throw StorageError(errno_message(what, errno_value), hint);
}

}  // namespace stillpoint
