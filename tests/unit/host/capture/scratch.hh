// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace stillpoint::test {

/// A directory of the test's own, removed at its end.
class Scratch {
 public:
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "stillpoint-test-XXXXXX").native();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Runs a shell script in the directory; it must succeed within a minute.
  void run(const std::string& script) const {
    std::ofstream(path_ / "script.sh") << "set -e\nexec 2>&1\ncd " << path_.native() << "\n" << script << "\n";
    const std::string command = fmt::format("timeout 60 bash {0}/script.sh >{0}/script.log", path_.native());
    const int status = std::system(command.c_str());  // NOLINT: the words are the test's own
    if (status != 0) {
      std::ifstream log(path_ / "script.log");
      FAIL(script << "\n" << std::string(std::istreambuf_iterator<char>(log), {}));
    }
  }

 private:
  std::filesystem::path path_;
};

/// A program that runs beside the test, ended by its id.
class Program {
 public:
  explicit Program(std::vector<std::string> words) {
    std::vector<char*> argv;
    for (std::string& word : words)
      argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    REQUIRE(pid_ > 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  void signal(int number) const { ::kill(pid_, number); }

 private:
  pid_t pid_;
};

/// A socket's file is there before anybody listens on it.
inline void wait_for_server(const std::filesystem::path& socket) {
  const auto listens = [&] {
    std::ifstream table("/proc/net/unix");
    for (std::string line; std::getline(table, line);)
      // "number: references protocol flags type state inode path", and the flag __SO_ACCEPTCON (proc(5))
      if (line.ends_with(" " + socket.native()) && line.find(" 00010000 ") != std::string::npos) return true;
    return false;
  };
  bool found = false;
  for (int i = 0; i < 1000 && !(found = listens()); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  REQUIRE(found);
}

inline std::vector<std::byte> random_bytes(std::size_t count, std::uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

inline std::vector<std::byte> read_whole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::byte> bytes(text.size());
  std::transform(text.begin(), text.end(), bytes.begin(), [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

/// Writes `bytes` at `offset`, making the file when there is none.
inline void write_at(const std::filesystem::path& path, std::uint64_t offset, const std::vector<std::byte>& bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  REQUIRE(fd >= 0);
  CHECK(::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes.size()));
  ::close(fd);
}

/// A file with data at the given places and holes elsewhere.
inline void make_sparse(const std::filesystem::path& path, std::uint64_t size,
                        const std::vector<std::pair<std::uint64_t, std::size_t>>& data) {
  std::uint32_t seed = 1;
  for (const auto& [offset, length] : data)
    write_at(path, offset, random_bytes(length, seed++));
  std::ofstream(path, std::ios::app);
  std::filesystem::resize_file(path, size);
}

}  // namespace stillpoint::test
