// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/nbd-disk.hh"
#include "host/capture/tree-writer.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <sys/stat.h>

#include <cstring>
#include <map>
#include <optional>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

TreeCounts write_tree(const std::filesystem::path& image, const std::filesystem::path& target,
                      const std::optional<std::filesystem::path>& previous = std::nullopt) {
  NbdDisk image_disk = NbdDisk::image(image, "raw");
  SharedReader disk(image_disk);
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

TEST_CASE("a label of the target's own does not part a file from its earlier one") {
  if (::geteuid() != 0) return;
  const Scratch scratch;
  scratch.run(
      "mkdir src; touch src/none src/labelled; mke2fs -q -t ext4 -d src image 8M\n"
      "printf l1 >l; debugfs -w -R 'ea_set /labelled security.selinux l1' image");
  static_cast<void>(write_tree(scratch / "image", scratch / "first"));
  scratch.run(
      "[ $(getfattr --only-values -n security.selinux first/labelled) = l1 ]; setfattr -n security.selinux -v "
      "of-the-host "
      "first/none");
  CHECK(write_tree(scratch / "image", scratch / "second", scratch / "first").files_written == 0);
  scratch.run("setfattr -n security.selinux -v other second/labelled");
  CHECK(write_tree(scratch / "image", scratch / "third", scratch / "second").files_written == 1);
}

TEST_CASE("attributes beyond what the target has room for cost a warning") {
  if (::geteuid() != 0) return;
  const Scratch scratch;
  scratch.run(
      "mkdir src; echo x >src/file; mke2fs -q -t ext4 -O ea_inode -I 256 -d src image 8M\n"
      "head -c 1000 /dev/urandom >value; for i in 1 2 3 4 5 6; do debugfs -w -R \"ea_set -f value /file user.$i\" "
      "image; "
      "done");
  const TreeCounts counts = write_tree(scratch / "image", scratch / "tree");
  scratch.run("[ $(cat tree/file) = x ]; getfattr --only-values -n user.1 tree/file | cmp - value");
  // Where the target has room for them, it has them.
  if (counts.warnings.empty())
    scratch.run("[ $(getfattr tree/file | grep -c user) = 6 ]");
  else
    CHECK(counts.warnings.front().find("the target refuses user.") != std::string::npos);
}

TEST_CASE("a file with more names than the target lets it have is kept in copies") {
  const Scratch scratch;
  scratch.run("printf content >content");
  std::vector<std::byte> bytes(4096);
  std::memcpy(bytes.data(), "content", 7);
  struct Bytes : BlockReader {
    explicit Bytes(std::vector<std::byte>& content) : bytes(content) {}
    [[nodiscard]] std::uint64_t size() const override { return bytes.size(); }
    void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
      std::memcpy(buffer.data(), bytes.data() + offset, buffer.size());
    }
    std::vector<std::byte>& bytes;
  } content(bytes);
  SharedReader disk(content);
  constexpr std::uint32_t names = 35000;
  const auto write = [&](const char* target, const std::optional<std::filesystem::path>& previous) {
    TreeWriter writer(scratch / target, previous, disk);
    TreeEntry entry;
    entry.type = EntryType::directory;
    entry.mode = 0700;
    writer.entry(entry);
    entry.type = EntryType::file;
    entry.mode = 0644;
    entry.inode = 12;
    entry.links = names;
    entry.size = 7;
    entry.extents = {{0, 0, 4096}};
    for (std::uint32_t i = 0; i < names; ++i) {
      entry.path = std::to_string(i);
      writer.entry(entry);
    }
    return writer.finish();
  };
  CHECK(write("first", std::nullopt).files_written == 1);
  struct stat status {};
  REQUIRE(::stat((scratch / "first/0").c_str(), &status) == 0);
  REQUIRE(status.st_nlink == names);
  const TreeCounts second = write("second", scratch / "first");
  // ext4 takes 65,000 names of a file: the second tree's last ones are those of a copy. Others take more.
  REQUIRE(::stat((scratch / "first/0").c_str(), &status) == 0);
  CHECK(second.files_written == (status.st_nlink < 2 * names ? 1 : 0));
  if (second.files_written == 0) MESSAGE("this file system takes more names than ext4");
  scratch.run(
      "for i in 0 29999 30000 34999; do cmp content second/$i; done; [ $(ls second | wc -l) = 35000 ]\n"
      "[ $(find second -type f -printf '%i\\n' | sort -u | wc -l) -le 2 ]");
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
  NbdDisk image = NbdDisk::image(scratch / "image", "raw");
  SharedReader disk(image);
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
