// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/state-file.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "scratch.hh"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <thread>

using namespace stillpoint;
using stillpoint::test::Scratch;

TEST_CASE("a file of a domain's state is read, and nothing else in its place") {
  const Scratch scratch;
  const auto path = scratch.path() / "nvram";
  CHECK(!read_state_file(path, 100));
  replace_file(path, "variables");
  const auto file = read_state_file(path, 100);
  REQUIRE(file);
  CHECK(file->content == "variables");
  CHECK(!file->owner.empty());
  CHECK_THROWS_AS(static_cast<void>(read_state_file(path, 8)), CaptureError);
  std::filesystem::create_symlink(path, scratch.path() / "link");
  CHECK_THROWS_AS(static_cast<void>(read_state_file(scratch.path() / "link", 100)), CaptureError);
  REQUIRE(::mkfifo((scratch.path() / "fifo").c_str(), 0600) == 0);
  CHECK_THROWS_AS(static_cast<void>(read_state_file(scratch.path() / "fifo", 100)), CaptureError);
  CHECK_THROWS_AS(static_cast<void>(read_state_file(scratch.path(), 100)), CaptureError);
}

namespace {

/// Written from its beginning to its end, each time with the next letter: at any moment it is one letter up to
/// somewhere, and the letter before it from there on.
bool is_of_one_moment(const std::string& content) {
  const std::size_t change = std::min(content.find_first_not_of(content[0]), content.size());
  const char before = content[0] == 'a' ? 'z' : static_cast<char>(content[0] - 1);
  return content.find_first_not_of(before, change) == std::string::npos;
}

}  // namespace

TEST_CASE("a file that is written to is read as it was at one moment, or not") {
  const Scratch scratch;
  const auto path = scratch.path() / "nvram";
  const std::size_t size = 300000;
  replace_file(path, std::string(size, 'z'));
  std::atomic<bool> stop = false;
  std::atomic<bool> rests = false;
  std::thread writer([&] {
    const UniqueFd fd = open_file(path, O_WRONLY);
    for (char c = 'a'; !stop; c = c == 'z' ? 'a' : static_cast<char>(c + 1)) {
      const std::string text(1000, c);
      for (std::size_t at = 0; at < size; at += text.size())
        pwrite_all(fd.get(), as_bytes(text), at, "nvram");
      // As firmware does: a variable now and then.
      if (rests) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
  });
  for (int i = 0; i < 8; ++i) {
    try {
      const auto file = read_state_file(path, size);
      REQUIRE(file);
      CHECK(is_of_one_moment(file->content));
    } catch (const CaptureError&) {
      CHECK(!rests);
    }
    rests = i >= 2;
  }
  stop = true;
  writer.join();
}

TEST_CASE("of a TPM's directory only its own files are read, and none that swtpm has not finished") {
  const Scratch scratch;
  CHECK(read_state_files(scratch.path() / "none", "tpm", ".permall", 2, 100).empty());
  for (const char* name : {"tpm2-00.permall", "tpm2-00.volatilestate", ".lock", ".x.permall", "TMP2-00.permall"})
    replace_file(scratch.path() / name, name);
  const auto files = read_state_files(scratch.path(), "tpm", ".permall", 2, 100);
  REQUIRE(files.size() == 1);
  CHECK(files[0].content == "tpm2-00.permall");
  for (const char* name : {"tpm2-01.permall", "tpm2-02.permall"})
    replace_file(scratch.path() / name, name);
  CHECK_THROWS_AS(static_cast<void>(read_state_files(scratch.path(), "tpm", ".permall", 2, 100)), CaptureError);
  std::filesystem::create_directory_symlink(scratch.path(), scratch.path() / "link");
  CHECK_THROWS_AS(static_cast<void>(read_state_files(scratch.path() / "link", "tpm", ".permall", 9, 100)),
                  CaptureError);
}
