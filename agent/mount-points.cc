// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mount-points.hh"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace stillpoint {

namespace {

constexpr int longest_line = 16384;
/// How often a file system may have been frozen on top of itself.
constexpr int most_freezes = 100;

/// mountinfo writes blanks, tabs, line ends and backslashes as \ooo.
void decode(char* text) {
  const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
  char* out = text;
  while (*text != '\0') {
    if (text[0] == '\\' && is_octal(text[1]) && is_octal(text[2]) && is_octal(text[3])) {
      *out++ = static_cast<char>((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
      text += 4;
    } else {
      *out++ = *text++;
    }
  }
  *out = '\0';
}

/// The mount point when the file system lies on a block device, else null. Btrfs has devices of its own numbering.
char* mount_point_on_disk(char* line) {
  // "36 35 98:0 /root /mount/point options ... - type source options" (proc(5))
  unsigned major = 0;
  int begin = 0;
  int end = 0;
  if (std::sscanf(line, "%*d %*d %u:%*u %*s %n%*s%n", &major, &begin, &end) != 1 || end == 0) return nullptr;
  const char* rest = std::strstr(line + end, " - ");
  if (major == 0 && (rest == nullptr || std::strncmp(rest, " - btrfs ", 9) != 0)) return nullptr;
  line[end] = '\0';
  decode(line + begin);
  return line + begin;
}

}  // namespace

void MountPoints::open() noexcept {
  close();
  FILE* table = std::fopen("/proc/self/mountinfo", "re");
  if (table == nullptr) return;
  static char line[longest_line];
  while (count_ < most && std::fgets(line, sizeof line, table) != nullptr) {
    const char* path = mount_point_on_disk(line);
    if (path == nullptr) continue;
    // O_NOATIME: looking at a file system that somebody else has frozen must not wait for it.
    const int fd = ::open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOATIME);
    if (fd < 0) continue;
    struct stat status {};
    // By what the path leads to: another file system may be mounted over it.
    if (::fstat(fd, &status) != 0 || std::find(devices_, devices_ + count_, status.st_dev) != devices_ + count_) {
      ::close(fd);
      continue;
    }
    devices_[count_] = status.st_dev;
    fds_[count_++] = fd;
  }
  std::fclose(table);
}

void MountPoints::sync() noexcept {
  for (int i = 0; i < count_; ++i)
    ::syncfs(fds_[i]);
}

void MountPoints::thaw() noexcept {
  for (int i = 0; i < count_; ++i)
    for (int times = 0; times < most_freezes && ::ioctl(fds_[i], FITHAW, 0) == 0; ++times) {
    }
}

void MountPoints::close() noexcept {
  while (count_ > 0)
    ::close(fds_[--count_]);
}

}  // namespace stillpoint
