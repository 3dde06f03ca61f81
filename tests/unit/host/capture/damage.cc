// SPDX-License-Identifier: LGPL-2.1-or-later
// Damaged images: whatever they hold, the reader ends in time, by a result or by a CaptureError, what it yields keeps
// to the rules, and a tree of it lies in its directory. STILLPOINT_TEST_ROUNDS=N damages N images (300), others each
// time.
#include "common/errors.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-writer.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <array>
#include <cstdlib>
#include <cstring>
#include <set>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

class BytesDisk : public BlockReader {
 public:
  explicit BytesDisk(std::vector<std::byte> content) : bytes(std::move(content)) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    REQUIRE(offset + buffer.size() <= bytes.size());
    std::memcpy(buffer.data(), bytes.data() + offset, buffer.size());
  }
  std::vector<std::byte> bytes;
};

struct Strict : TreeSink {
  explicit Strict(TreeSink& next) : next_(next) {}
  void entry(const TreeEntry& entry) override {
    ++count;
    REQUIRE(entry.path.find("//") == std::string::npos);
    for (std::string_view rest = entry.path; !rest.empty();) {
      const std::size_t slash = std::min(rest.find('/'), rest.size());
      REQUIRE(wire::is_name(rest.substr(0, slash)));
      rest.remove_prefix(std::min(slash + 1, rest.size()));
    }
    if (!entry.path.empty()) {
      const std::size_t slash = entry.path.rfind('/');
      REQUIRE(directories.contains(slash == std::string::npos ? std::string() : entry.path.substr(0, slash)));
    }
    if (entry.type == EntryType::directory) directories.insert(entry.path);
    if (entry.type == EntryType::file && entry.size < 1 << 20) read_file(*disk, entry, [](const FileContent&) {});
    next_.entry(entry);
  }
  BlockReader* disk = nullptr;
  std::set<std::string> directories;
  std::size_t count = 0;

 private:
  TreeSink& next_;
};

/// Writes the tree of a damaged disk, as a backup does, or gives it up at its end: only what is finished is synced.
/// False when it is refused.
bool write_damaged(const Scratch& scratch, BlockReader& damaged, bool finish, std::size_t& killed) {
  SharedReader disk(damaged);
  FileSystemReader reader(disk);
  try {
    const std::vector<FileSystem> found = reader.file_systems();
    REQUIRE(found.size() <= wire::max_file_systems);
    for (const FileSystem& fs : found) {
      if (!fs.readable()) continue;
      TreeWriter writer(scratch / "trees" / fmt::format("tree-{}", fs.number), scratch / "good", disk);
      Strict sink(writer);
      sink.disk = &disk;
      reader.walk(fs, "", true, sink);
      if (finish) static_cast<void>(writer.finish());
    }
    return true;
  } catch (const CaptureError& error) {
    REQUIRE(std::string(error.what()).find('\n') == std::string::npos);
    // The worker may die of what it reads, but not often, and never of a system call that it needs.
    const std::string what = error.what();
    REQUIRE(what.find("Bad system call") == std::string::npos);
    if (what.find("signal") != std::string::npos) ++killed;
  } catch (const Corruption&) {
  } catch (const StorageError&) {
    // Two entries of one name, a time or a size that the target cannot have.
  }
  return false;
}

/// The blocks that hold metadata: those that differ from block to block, near the front, are hit most.
std::vector<std::size_t> metadata_blocks(const std::vector<std::byte>& image) {
  std::vector<std::size_t> blocks;
  const std::vector<std::byte> zeros(1024);
  for (std::size_t at = 0; at + 1024 <= image.size(); at += 1024)
    if (std::memcmp(image.data() + at, zeros.data(), 1024) != 0) blocks.push_back(at);
  return blocks;
}

}  // namespace

TEST_CASE("a damaged file system ends the reading and nothing else") {
  const Scratch scratch;
  scratch.run(
      "mkdir -p src/a/b/c src/many; for i in $(seq 60); do echo $i > src/many/file-$i; done\n"
      "ln src/many/file-1 src/a/hard; ln -s $(printf 'l%.0s' $(seq 100)) src/a/long; ln -s s src/a/b/short\n"
      "for i in $(seq 0 2 40); do printf x | dd of=src/a/holes bs=1k seek=$i conv=notrunc status=none; done\n"
      "setfattr -n user.x -v 1 src/a/holes; setfattr -n user.y -v $(printf 'y%.0s' $(seq 300)) src/a/b; setfacl -m "
      "u:5:r src/a/b\n");
  const std::array<std::string, 4> options = {"-t ext4 -O ^metadata_csum -b 1024 -I 256", "-t ext4 -b 1024",
                                              "-t ext2 -b 1024",
                                              "-t ext4 -O inline_data,^metadata_csum -I 256 -b 1024"};
  const char* asked = std::getenv("STILLPOINT_TEST_ROUNDS");
  const std::size_t rounds = (asked != nullptr ? std::strtoul(asked, nullptr, 10) : 300) / options.size();
  std::mt19937 random(asked != nullptr ? std::random_device()() : 20240607);
  std::size_t sound = 0;
  std::size_t refused = 0;
  std::size_t killed = 0;
  // What a tree must never reach: a name beside it, and what links of the image point at.
  const std::string list = "find . ! -name 'script*' ! -name before ! -name after | sort";
  scratch.run("mkdir trees good outside; echo safe >outside/file; echo safe >s; " + list + " >before");
  for (const std::string& option : options) {
    scratch.run("mke2fs -q -F " + option + " -d src image 2M");
    const std::vector<std::byte> good = read_whole(scratch / "image");
    const std::vector<std::size_t> blocks = metadata_blocks(good);
    BytesDisk sane(good);
    std::filesystem::remove_all(scratch / "good");
    REQUIRE(write_damaged(scratch, sane, true, killed));
    std::filesystem::rename(scratch / "trees" / "tree-0", scratch / "good");
    for (std::size_t round = 0; round < rounds; ++round) {
      BytesDisk disk(good);
      for (std::size_t hits = 1 + random() % 30; hits > 0; --hits) {
        const std::size_t at = blocks[random() % blocks.size()] + random() % 1024;
        switch (random() % 3) {
          case 0:
            disk.bytes[at] ^= static_cast<std::byte>(1U << random() % 8);
            break;
          case 1:
            disk.bytes[at] = static_cast<std::byte>(random() % 256);
            break;
          default:
            std::memset(disk.bytes.data() + at / 4 * 4, random() % 2 == 0 ? 0xff : 0, 4);
            break;
        }
      }
      ++(write_damaged(scratch, disk, round % 4 == 0, killed) ? sound : refused);
      // A tree that is refused is gone, and one that is not has the only name in its directory.
      for (const auto& entry : std::filesystem::directory_iterator(scratch / "trees")) {
        REQUIRE(entry.path().filename().native().starts_with("tree-"));
        REQUIRE(entry.path().native().find(".partial") == std::string::npos);
        std::filesystem::remove_all(entry.path());
      }
    }
  }
  scratch.run("rm -r good image; mkdir good; " + list +
              " >after; cmp before after; [ $(cat outside/file s | sort -u) = safe ]");
  MESSAGE(sound << " rounds read to the end, " << refused << " refused, the worker died in " << killed);
  CHECK(sound > 10);
  CHECK(refused > 10);
}

TEST_CASE("a worker that breaks the rules is not believed") {
  const auto entry_message = [](const TreeEntry& entry, std::uint32_t depth, std::string_view name) {
    wire::Writer writer(wire::Type::entries);
    wire::write_entry(writer, depth, name, entry);
    return std::string(writer.finish().substr(wire::header_bytes));
  };
  const auto read = [](const std::string& message) {
    wire::Reader reader(message);
    wire::ReceivedEntry received;
    wire::read_entry(reader, 1 << 20, received);
    return received;
  };
  TreeEntry good;
  good.size = 5000;
  good.mode = 0644;
  good.extents = {{0, 4096, 4096}, {4096, 65536, 4096}};
  good.xattrs = {{"user.x", "1"}};
  CHECK(read(entry_message(good, 1, "name")).name == "name");
  for (const char* name : {"", ".", "..", "a/b"})
    CHECK_THROWS_AS(read(entry_message(good, 1, name)), CaptureError);
  CHECK_THROWS_AS(read(entry_message(good, 1, std::string("a\0b", 3))), CaptureError);
  CHECK_THROWS_AS(read(entry_message(good, 1, std::string(256, 'n'))), CaptureError);
  CHECK_THROWS_AS(read(entry_message(good, 5000, "name")), CaptureError);
  const auto refused = [&](auto change) {
    TreeEntry bad = good;
    change(bad);
    CHECK_THROWS_AS(read(entry_message(bad, 1, "name")), CaptureError);
  };
  refused([](TreeEntry& e) { e.extents[1].disk_offset = (1 << 20) - 4095; });
  refused([](TreeEntry& e) { e.extents[1].disk_offset = UINT64_MAX - 100; });
  refused([](TreeEntry& e) { e.extents[1].file_offset = 4095; });
  refused([](TreeEntry& e) { e.extents[1].length = UINT64_MAX; });
  refused([](TreeEntry& e) { e.extents[0].length = 0; });
  refused([](TreeEntry& e) { e.type = EntryType::symlink; });
  refused([](TreeEntry& e) { e.type = EntryType(7); });
  refused([](TreeEntry& e) { e.mode = 010000; });
  refused([](TreeEntry& e) { e.inline_content = "content"; });
  refused([](TreeEntry& e) { e.xattrs[0].first = "posix"; });
  refused([](TreeEntry& e) { e.xattrs[0].first = "user."; });
  refused([](TreeEntry& e) { e.xattrs[0].second.resize(70000); });
  refused([](TreeEntry& e) { e.target = "t"; });
  const std::string whole = entry_message(good, 1, "name");
  for (std::size_t length = 0; length < whole.size(); ++length)
    CHECK_THROWS_AS(read(whole.substr(0, length)), CaptureError);
  CHECK_THROWS_AS(static_cast<void>(wire::parse_header(std::string_view("\x09\0\0\0\0\0\0\x7f", 8))), CaptureError);
}

TEST_CASE("a tree is written below its target only, whatever the entries say") {
  const Scratch scratch;
  scratch.run("mkdir outside; echo safe > outside/file");
  BytesDisk bytes(std::vector<std::byte>(4096));
  SharedReader disk(bytes);
  const auto write = [&](const std::vector<TreeEntry>& entries) {
    TreeWriter writer(scratch / "tree", std::nullopt, disk);
    for (const TreeEntry& entry : entries)
      writer.entry(entry);
    static_cast<void>(writer.finish());
  };
  const auto made = [](EntryType type, const char* path) {
    TreeEntry entry;
    entry.type = type;
    entry.path = path;
    entry.mode = 0700;
    return entry;
  };
  const TreeEntry root = made(EntryType::directory, "");
  TreeEntry link = made(EntryType::symlink, "x");
  link.target = "../outside";
  // A link, then things below it.
  CHECK_THROWS_AS(write({root, link, made(EntryType::file, "x/file")}), CaptureError);
  CHECK_THROWS_AS(write({root, link, made(EntryType::directory, "x")}), StorageError);
  CHECK_THROWS_AS(write({root, link, made(EntryType::file, "x")}), StorageError);
  for (const char* path : {"../evil", "a/../../evil", "/evil", "a//b", ".", "..", "a/", "missing/file"})
    CHECK_THROWS_AS(write({root, made(EntryType::file, path)}), CaptureError);
  TreeEntry content = made(EntryType::file, "far");
  content.size = 100;
  content.extents = {{0, 4000, 200}};
  CHECK_THROWS_AS(write({root, content}), Corruption);
  scratch.run(
      "[ \"$(ls | tr '\\n' ' ')\" = 'outside script.log script.sh ' ]; [ $(cat outside/file) = safe ]; [ $(ls outside) "
      "= file ]");
}
