// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/tree-layout.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <set>

using namespace stillpoint;
namespace fs = std::filesystem;

namespace {

class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/stillpoint-tree-layout-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Scratch() { fs::remove_all(path); }
  fs::path path;
};

}  // namespace

TEST_CASE("file systems are found where the guest has mounted them") {
  const std::vector<GuestFileSystem> mounted{
      {"/", "vda1", "ext4", {"vda"}},       {"/srv", "sda3", "ext4", {"sdb"}},
      {"/data", "nvme1n1", "xfs", {"vdc"}}, {"/log", "nvme0n1p2", "ext4", {"vdd"}},
      {"/lv", "dm-0", "ext4", {"vde"}},     {"/raid", "md1", "ext4", {"vdf", "vdg"}}};
  CHECK(mount_point_of(mounted, "vda", 1) == "/");
  CHECK(mount_point_of(mounted, "vda", 0).empty());
  CHECK(mount_point_of(mounted, "sdb", 3) == "/srv");
  CHECK(mount_point_of(mounted, "vdc", 0) == "/data");
  CHECK(mount_point_of(mounted, "vdd", 2) == "/log");
  CHECK(mount_point_of(mounted, "vde", 0).empty());
  CHECK(mount_point_of(mounted, "vdf", 1).empty());
  CHECK(file_system_name("vda", 0) == "vda");
  CHECK(file_system_name("vda", 2) == "vda2");
  CHECK(file_system_name("nvme0n1", 2) == "nvme0n1p2");
}

TEST_CASE("no two mount points share a tree, and none leaves its directory") {
  CHECK(tree_name("/", "vda1") == "@root");
  CHECK(tree_name("/var/lib/postgresql", "vdb") == "var-lib-postgresql");
  CHECK(tree_name("", "vda1") == "@vda1");
  std::set<std::string> names;
  const std::vector<std::string> mounts{"/",      "/root", "/@root", "/a/b", "/a-b", "/..",
                                        "/../..", "/.",    "/a b",   "/-",   "/%2D"};
  for (const std::string& mount : mounts) {
    const std::string name = tree_name(mount, "vda");
    CHECK(name.find('/') == std::string::npos);
    CHECK(name != "..");
    CHECK(name != ".");
    names.insert(name);
  }
  CHECK(names.size() == mounts.size());
}

TEST_CASE("trees appear all at once, or not at all") {
  const Scratch scratch;
  std::vector<TreeRecord> records(1);
  records[0].mount_point = "/";
  const auto write = [](const fs::path& path) {
    fs::create_directory(path);
    std::ofstream(path / "file") << "content";
  };
  {
    TreeDirectory trees(scratch.path, "0123");
    write(trees.staging("@root"));
    CHECK(fs::exists(scratch.path / "trees/.partial-0123/@root/file"));
  }
  CHECK(fs::is_empty(scratch.path / "trees"));
  {
    TreeDirectory trees(scratch.path, "0123");
    write(trees.staging("@root"));
    trees.publish("web1@2026-11-22T08:20:11Z", records);
    CHECK(records[0].path == "trees/web1/2026-11-22T08:20:11Z/@root");
    CHECK(fs::exists(scratch.path / records[0].path / "file"));
    // No keep(): the manifest was not committed.
  }
  CHECK(!fs::exists(scratch.path / records[0].path));
  {
    TreeDirectory trees(scratch.path, "0123");
    write(trees.staging("@root"));
    trees.publish("web1@2026-11-22T08:20:11Z", records);
    trees.keep();
  }
  CHECK(fs::exists(scratch.path / records[0].path / "file"));
}

TEST_CASE("what dead backups have left of trees is swept, and nothing else") {
  const Scratch scratch;
  const fs::path trees = scratch.path / "trees";
  const std::string partial = ".partial-" + random_id();
  fs::create_directories(trees / partial / "@root");
  fs::create_directories(trees / ".partial-mine");
  fs::create_directories(trees / "web1/keep-this");
  fs::create_directories(trees / "web1/2026-11-22T08:20:11Z/@root");
  fs::create_directories(trees / "web1/2026-11-23T08:20:11Z/@root");
  fs::create_directories(scratch.path / "elsewhere/2026-11-23T08:20:11Z");
  fs::create_directory_symlink(scratch.path / "elsewhere", trees / "link");
  const std::vector<std::string> names{"web1@2026-11-22T08:20:11Z"};
  // Somebody works who began before they were made, or not long after: clocks differ.
  CHECK(sweep_trees(scratch.path, names, wall_now() + std::chrono::minutes(59), {}) == 0);
  CHECK(fs::exists(trees / partial / "@root"));
  CHECK(sweep_trees(scratch.path, names, wall_now() + std::chrono::hours(2), {}) == 2);
  CHECK(!fs::exists(trees / partial));
  CHECK(!fs::exists(trees / "web1/2026-11-23T08:20:11Z"));
  CHECK(fs::exists(trees / "web1/2026-11-22T08:20:11Z/@root"));
  CHECK(fs::exists(scratch.path / "elsewhere/2026-11-23T08:20:11Z"));
  CHECK(fs::exists(trees / ".partial-mine"));
  CHECK(fs::exists(trees / "web1/keep-this"));
  CHECK(sweep_trees(scratch.path / "none", {}, wall_now(), {}) == 0);
}

TEST_CASE("a tree that somebody deleted meanwhile is not published") {
  const Scratch scratch;
  std::vector<TreeRecord> records(1);
  records[0].mount_point = "/";
  TreeDirectory trees(scratch.path, "0123");
  fs::create_directory(trees.staging("@root"));
  fs::remove_all(scratch.path / "trees/.partial-0123");
  fs::create_directory(trees.staging("var"));
  CHECK_THROWS_AS(trees.publish("web1@2026-11-22T08:20:11Z", records), StorageError);
  CHECK((fs::status(scratch.path / "trees").permissions() & fs::perms::others_all) == fs::perms::none);
}
