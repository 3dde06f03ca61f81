// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/guest-fs.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

bool is_believed(const GuestFileSystem& fs) {
  return !believable({fs}).empty();
}

}  // namespace

TEST_CASE("what a guest may say of its file systems") {
  CHECK(is_believed({"/", "vda1", "ext4", {"vda"}}));
  CHECK(is_believed({"/srv/a b/\xc3\xbc", "vdb", "xfs", {}}));
  CHECK(is_believed({"/a/..b/.c", "", "", {}}));
}

TEST_CASE("what leads elsewhere, breaks a line or is too long is left out") {
  CHECK_FALSE(is_believed({"", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"srv", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/srv/../etc", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/..", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/a/./b", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/a\nb", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/a\x1b[2J", "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/" + std::string(5000, 'a'), "vda", "ext4", {}}));
  CHECK_FALSE(is_believed({"/a", std::string(300, 'v'), "ext4", {}}));
  CHECK_FALSE(is_believed({"/a", "vda", "ext\n4", {}}));
  CHECK_FALSE(is_believed({"/a", "vda", "ext4", std::vector<std::string>(100, "vda")}));
}

TEST_CASE("a mount point counts once, and their number is bounded") {
  CHECK(believable({{"/", "vda", "ext4", {}}, {"/", "vdb", "ext4", {}}}).size() == 1);
  std::vector<GuestFileSystem> many;
  for (int i = 0; i < 5000; ++i)
    many.push_back({"/" + std::to_string(i), "", "", {}});
  CHECK(believable(many).size() == 1024);
}
