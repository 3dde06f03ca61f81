// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/nbd-disk.hh"
#include "host/capture/tree-worker.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <sched.h>

#include <optional>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The worker that this process started.
std::filesystem::path worker_in_proc() {
  const std::string self = std::to_string(::getpid());
  for (const auto& folder : std::filesystem::directory_iterator("/proc")) {
    const std::string status = text_of(folder.path() / "status");
    if (status.find("Name:\tstillpoint-tree") != std::string::npos &&
        status.find("\nPPid:\t" + self + "\n") != std::string::npos)
      return folder.path();
  }
  FAIL("there is no worker");
  return {};
}

bool finds_it_dead(TreeWorker& worker) {
  try {
    for (int i = 0; i < 1000; ++i) {
      worker.send("question");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  } catch (const CaptureError&) {
    return true;
  }
  return false;
}

/// Asks a dead worker twice, as the first process of its namespace; 0 where its only neighbour lives on.
int ask_dead_worker() {
  const pid_t neighbour = ::fork();
  if (neighbour == 0)
    for (;;)
      ::pause();
  TreeWorker worker({.name = "/bin/true", .words = "the worker", .environment = {}, .stop = {}});
  if (!finds_it_dead(worker) || !finds_it_dead(worker)) return 2;
  // A signal is not there at once.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  return ::waitpid(neighbour, nullptr, WNOHANG) == 0 ? 0 : 1;
}

}  // namespace

TEST_CASE("who asks a dead worker again kills nobody else" * doctest::skip(::geteuid() != 0)) {
  // In a namespace of processes: outside, kill(-1) would end the machine.
  const pid_t outer = ::fork();
  if (outer == 0) {
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(0);
    const pid_t first = ::fork();
    if (first == 0) ::_exit(::getpid() == 1 ? ask_dead_worker() : 3);
    int status = 0;
    ::waitpid(first, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 4);
  }
  int status = 0;
  REQUIRE(::waitpid(outer, &status, 0) == outer);
  CHECK(status == 0);
}

TEST_CASE("the worker has no right but to talk to its parent") {
  const Scratch scratch;
  scratch.run("mke2fs -q -t ext4 image 8M");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  std::optional<FileSystemReader> reader(disk);
  REQUIRE(reader->file_systems().size() == 1);
  const std::filesystem::path proc = worker_in_proc();
  const std::string status = text_of(proc / "status");
  const auto has = [&status](const char* line) { return status.find(line) != std::string::npos; };
  CHECK(has("\nNoNewPrivs:\t1\n"));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // as the worker has it
  CHECK(has("\nSeccomp:\t2\n"));
#endif
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"})
    CHECK(has(fmt::format("\n{}:\t0000000000000000\n", set).c_str()));
  if (::geteuid() == 0) {
    CHECK(has("\nUid:\t65534\t65534\t65534\t65534\n"));
    CHECK(has("\nGid:\t65534\t65534\t65534\t65534\n"));
    CHECK(has("\nCapBnd:\t0000000000000000\n"));
    CHECK(std::filesystem::is_empty(proc / "root"));
    for (const char* space : {"net", "mnt", "ipc", "uts"})
      CHECK(std::filesystem::read_symlink(proc / "ns" / space) !=
            std::filesystem::read_symlink(std::filesystem::path("/proc/self/ns") / space));
    std::size_t descriptors = 0;
    for (const auto& descriptor : std::filesystem::directory_iterator(proc / "fd")) {
      const std::string target = std::filesystem::read_symlink(descriptor.path()).native();
      CHECK((target == "/dev/null" || target.starts_with("socket:")));
      ++descriptors;
    }
    CHECK(descriptors == 4);
  }
  const std::string limits = text_of(proc / "limits");
  CHECK(limits.find("Max processes             0 ") != std::string::npos);
  CHECK(limits.find("Max file size             0 ") != std::string::npos);
  reader.reset();
  CHECK_FALSE(std::filesystem::exists(proc));
}

TEST_CASE("a worker that is killed or missing is said to be, and the next question starts another") {
  const Scratch scratch;
  scratch.run("mke2fs -q -t ext4 image 8M");
  NbdDisk disk = NbdDisk::image(scratch / "image", "raw");
  FileSystemReader reader(disk);
  REQUIRE(reader.file_systems().size() == 1);
  ::kill(std::stoi(worker_in_proc().filename().native()), SIGSEGV);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // which catch the signal
  CHECK_THROWS_AS(static_cast<void>(reader.file_systems()), CaptureError);
#else
  CHECK_THROWS_WITH_AS(static_cast<void>(reader.file_systems()), doctest::Contains("signal 11"), CaptureError);
#endif
  CHECK(reader.file_systems().size() == 1);

  ::setenv("STILLPOINT_LIBEXEC", scratch.path().c_str(), 1);
  FileSystemReader other(disk);
  CHECK_THROWS_WITH_AS(static_cast<void>(other.file_systems()), doctest::Contains("stillpoint-tree-worker"),
                       CaptureError);
  ::unsetenv("STILLPOINT_LIBEXEC");
}
