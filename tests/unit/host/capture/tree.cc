// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/nbd-disk.hh"
#include "host/capture/tree-writer.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <sys/stat.h>

#include <map>
#include <optional>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

TreeCounts write_tree(const std::filesystem::path& image, const std::filesystem::path& target,
                      const std::optional<std::filesystem::path>& previous = std::nullopt) {
  NbdDisk disk = NbdDisk::image(image, "raw");
  FileSystemReader reader(disk);
  const std::vector<FileSystem> found = reader.file_systems();
  REQUIRE(found.size() == 1);
  TreeWriter writer(target, previous, disk);
  reader.walk(found.front(), "", true, writer);
  CHECK(reader.warnings().empty());
  return writer.finish();
}

/// rsync finds nothing to do.
void check_equal(const Scratch& scratch, const std::string& source, const std::string& target) {
  scratch.run("rsync -n -aHAX --delete --checksum -i --exclude=/lost+found " + source + "/ " + target +
              "/ >differences 2>&1\ncat differences; [ ! -s differences ]");
}

/// Of ./src. The root's time is the one thing that mke2fs does not take over.
void make_image(const Scratch& scratch, const std::string& options) {
  scratch.run("mke2fs -q -F " + options +
              " -d src image 64M\n"
              "debugfs -w -R \"set_inode_field / mtime @$(stat -c %Y src)\" image");
}

ino_t inode(const std::filesystem::path& path) {
  struct stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status.st_ino;
}

struct Collected : TreeSink {
  void entry(const TreeEntry& entry) override {
    CHECK(entries.emplace(entry.path, entry).second);
    order.push_back(entry.path);
  }
  std::map<std::string, TreeEntry> entries;
  std::vector<std::string> order;
};

}  // namespace

TEST_CASE("a tree is what rsync would have made") {
  if (::geteuid() != 0) return;
  const Scratch scratch;
  scratch.run(SAMPLE_TREE);
  std::string options;
  SUBCASE("ext4") {
    options = "-t ext4";
  }
  SUBCASE("ext4, 1 KiB blocks, 128-byte inodes") {
    options = "-t ext4 -b 1024 -I 128";
  }
  SUBCASE("ext4, content in inodes") {
    options = "-t ext4 -O inline_data -I 512";
  }
  SUBCASE("ext4, large clusters") {
    options = "-t ext4 -O bigalloc";
  }
  SUBCASE("ext4, block groups of 64 bits, no journal") {
    options = "-t ext4 -O 64bit,metadata_csum,^has_journal,ea_inode";
  }
  SUBCASE("ext3") {
    options = "-t ext3 -I 256";
  }
  SUBCASE("ext2, 1 KiB blocks") {
    options = "-t ext2 -b 1024 -I 256";
  }
  make_image(scratch, options);

  const TreeCounts first = write_tree(scratch / "image", scratch / "first");
  for (const std::string& warning : first.warnings)
    MESSAGE(warning);
  CHECK(first.warnings.empty());
  check_equal(scratch, "src", "first");
  CHECK(std::filesystem::is_directory(scratch / "first" / "lost+found"));
  CHECK(inode(scratch / "first" / "file") == inode(scratch / "first" / "dir" / "hard"));
  struct stat status {};
  REQUIRE(::stat((scratch / "first" / "sparse").c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 < 1 << 20);

  const TreeCounts second = write_tree(scratch / "image", scratch / "second", scratch / "first");
  check_equal(scratch, "src", "second");
  CHECK(second.entries == first.entries);
  CHECK(second.bytes == first.bytes);
  CHECK(second.files_written == 0);
  CHECK(second.bytes_written == 0);
  for (const char* name : {"file", "dir/large", "sparse", "short", "many/7", "null", "dir/hard"})
    CHECK(inode(scratch / "first" / name) == inode(scratch / "second" / name));
  // A name can be both a link to the previous tree and to another name.
  CHECK(inode(scratch / "second" / "file") == inode(scratch / "second" / "dir" / "hard"));

  scratch.run(
      "echo other > src/many/9; chmod 600 src/many/10; touch src/many/11; setfattr -n user.n -v 1 src/many/12\n"
      "rm src/many/13; mkdir src/many/13; rm -r src/deep");
  make_image(scratch, options);
  const TreeCounts third = write_tree(scratch / "image", scratch / "third", scratch / "second");
  check_equal(scratch, "src", "third");
  CHECK(third.files_written == 4);
}

TEST_CASE("paths are looked up without following links") {
  const Scratch scratch;
  scratch.run(
      "mkdir -p src/a/b src/c; echo x > src/a/b/file; ln -s a src/link; ln -s b/file src/a/last; mke2fs -q -t ext4 -d "
      "src image 8M");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  FileSystemReader reader(disk);
  const FileSystem fs = reader.file_systems().at(0);
  CHECK(fs.type == "ext4");
  CHECK(fs.partition == 0);
  CHECK(fs.length == 8 << 20);
  CHECK(fs.clean);
  CHECK(fs.uuid.size() == 36);
  const auto walk = [&](const char* path, bool recursive) {
    Collected collected;
    reader.walk(fs, path, recursive, collected);
    return collected.order;
  };
  CHECK(walk("a/b/file", true) == std::vector<std::string>{"a/b/file"});
  CHECK(walk("/a//b/", false) == std::vector<std::string>{"a/b", "a/b/file"});
  CHECK(walk("a/last", true) == std::vector<std::string>{"a/last"});
  CHECK(walk("", false).size() == 5);
  CHECK(walk("", true).size() == 8);
  CHECK_THROWS_AS(walk("link/b", true), NotFound);
  CHECK_THROWS_AS(walk("a/none", true), NotFound);
  CHECK_THROWS_AS(walk("a/b/file/x", true), NotFound);
  CHECK_THROWS_AS(walk("a/../a", true), NotFound);
  // The same worker goes on.
  CHECK(walk("c", true) == std::vector<std::string>{"c"});

  Collected all;
  reader.walk(fs, "", true, all);
  const TreeEntry& file = all.entries.at("a/b/file");
  std::string content;
  read_file(disk, file, [&content](const FileContent& part) {
    content.append(reinterpret_cast<const char*>(part.bytes.data()), part.bytes.size());
  });
  CHECK(content == "x\n");

  struct Failing : TreeSink {
    void entry(const TreeEntry&) override { throw std::runtime_error("enough"); }
  } failing;
  CHECK_THROWS_WITH(reader.walk(fs, "", true, failing), "enough");
  CHECK(walk("", true).size() == 8);
}

TEST_CASE("a tree that was not finished leaves nothing") {
  const Scratch scratch;
  scratch.run("mkdir src; head -c 3000000 /dev/urandom > src/x; mke2fs -q -t ext4 -d src image 8M");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  FileSystemReader reader(disk);
  {
    TreeWriter writer(scratch / "tree", std::nullopt, disk);
    reader.walk(reader.file_systems().at(0), "", true, writer);
  }
  scratch.run("[ $(ls | wc -l) = 4 ]");  // src, image, script and its log
  scratch.run("mkdir tree");
  CHECK_THROWS_AS(TreeWriter(scratch / "tree", std::nullopt, disk), UsageError);
}

TEST_CASE("a journal that must be replayed is said, and one with nothing in it hinders nobody") {
  const Scratch scratch;
  scratch.run("mke2fs -q -t ext4 image 8M; debugfs -w -R 'feature needs_recovery' image");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  FileSystemReader reader(disk);
  const FileSystem fs = reader.file_systems().at(0);
  CHECK_FALSE(fs.clean);
  Collected collected;
  reader.walk(fs, "", true, collected);
  CHECK(reader.look(fs, "lost+found"));
}

TEST_CASE("a journal that lies elsewhere cannot be replayed") {
  const Scratch scratch;
  scratch.run("mke2fs -q -t ext4 -O ^has_journal image 8M; debugfs -w -R 'feature has_journal needs_recovery' image");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  FileSystemReader reader(disk);
  Collected collected;
  CHECK_THROWS_WITH_AS(reader.walk(reader.file_systems().at(0), "", true, collected),
                       doctest::Contains("lies on another disk"), CaptureError);
}

TEST_CASE("times reach beyond 2038 and below the second") {
  const Scratch scratch;
  scratch.run(
      "mkdir src; touch src/a src/b src/c; mke2fs -q -t ext4 -I 256 -d src image 8M\n"
      "printf 'sif /a mtime @1000000000\\nsif /a mtime_extra 0x%x\\n' $((123456789 << 2)) >commands\n"
      "printf 'sif /b mtime @1\\nsif /b mtime_extra 0x%x\\n' $((999999999 << 2 | 1)) >>commands\n"
      "printf 'sif /c mtime 0xffffffff\\nsif /c mtime_extra 0x%x\\n' $((5 << 2)) >>commands\n"
      "debugfs -w -f commands image");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  FileSystemReader reader(disk);
  Collected collected;
  reader.walk(reader.file_systems().at(0), "", true, collected);
  CHECK(collected.entries.at("a").mtime_ns == 1000000000123456789);
  CHECK(collected.entries.at("b").mtime_ns == ((std::int64_t{1} << 32) + 1) * 1000000000 + 999999999);
  CHECK(collected.entries.at("c").mtime_ns == -999999995);
}
