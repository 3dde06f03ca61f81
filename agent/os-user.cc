// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/os-user.hh"

#include "common/errors.hh"

#include <grp.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

namespace stillpoint {

namespace {

/// The system call itself: glibc's function would change the uid of every thread.
bool set_thread_euid(uid_t uid) noexcept {
  return ::syscall(SYS_setresuid, static_cast<uid_t>(-1), uid, static_cast<uid_t>(-1)) == 0;
}

}  // namespace

std::optional<OsUser> find_os_user(const std::string& name) {
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> buffer(16384);
  if (::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) return {};
  OsUser user{entry.pw_uid, entry.pw_gid, std::vector<gid_t>(64)};
  int count = static_cast<int>(user.groups.size());
  if (::getgrouplist(name.c_str(), entry.pw_gid, user.groups.data(), &count) < 0) {
    user.groups.resize(static_cast<std::size_t>(count));
    ::getgrouplist(name.c_str(), entry.pw_gid, user.groups.data(), &count);
  }
  user.groups.resize(static_cast<std::size_t>(count));
  return user;
}

EffectiveUser::EffectiveUser(const std::optional<OsUser>& user) {
  if (!user || ::geteuid() != 0 || user->uid == 0) return;
  if (!set_thread_euid(user->uid)) throw_errno("cannot take the uid of the database's user");
  changed_ = true;
}

EffectiveUser::~EffectiveUser() {
  if (changed_ && !set_thread_euid(0)) std::abort();
}

}  // namespace stillpoint
