// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/dump-stream.hh"

#include "common/clock.hh"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <optional>
#include <string>

using namespace stillpoint;

namespace {

/// A tool that is a shell command.
std::shared_ptr<RunningDump> run_tool(const char* command) {
  int output[2];
  int errors[2];
  REQUIRE(::pipe2(output, O_CLOEXEC) == 0);
  REQUIRE(::pipe2(errors, O_CLOEXEC) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    ::dup2(output[1], STDOUT_FILENO);
    ::dup2(errors[1], STDERR_FILENO);
    ::execl("/bin/sh", "sh", "-c", command, nullptr);
    ::_exit(127);
  }
  ::close(output[1]);
  ::close(errors[1]);
  ::fcntl(output[0], F_SETFL, O_NONBLOCK);
  return std::make_shared<RunningDump>(RunningProgram(pid), UniqueFd(output[0]), UniqueFd(errors[0]));
}

/// Where a stream's bytes and its end arrive.
struct Host {
  std::string received;
  bool room = true;
  std::optional<std::string> failure;
  std::uint64_t bytes = 0;

  DumpStream::Output output() {
    return {[this](std::string_view piece) { received += piece; }, [this] { return room; },
            [this](std::uint64_t sent, const std::string& why) {
              bytes = sent;
              failure = why;
            }};
  }

  /// Runs the main loop until so much has arrived, or the end.
  void wait_for(std::size_t size) const {
    const Deadline deadline(std::chrono::seconds(20));
    while (received.size() < size && !failure && !deadline.passed())
      if (g_main_context_iteration(nullptr, FALSE) == FALSE) g_usleep(1000);
  }
  void wait_for_end() const { wait_for(SIZE_MAX); }
  /// Runs it for a while: what is not meant to arrive would.
  static void idle() {
    const Deadline deadline(std::chrono::milliseconds(100));
    while (!deadline.passed())
      if (g_main_context_iteration(nullptr, FALSE) == FALSE) g_usleep(1000);
  }
};

}  // namespace

TEST_CASE("a dump stream sends exactly its credit") {
  Host host;
  DumpStream stream(run_tool("seq 1 100000"), host.output());
  Host::idle();
  CHECK(host.received.empty());
  stream.add_credit(10);
  host.wait_for(10);
  Host::idle();
  CHECK(host.received == "1\n2\n3\n4\n5\n");
  stream.add_credit(7);
  stream.add_credit(3);
  host.wait_for(20);
  Host::idle();
  CHECK(host.received.size() == 20);
  // Sums of credit do not overflow.
  stream.add_credit(UINT64_MAX);
  stream.add_credit(1);
  host.wait_for_end();
  CHECK(host.failure == "");
  CHECK(host.received.ends_with("\n99999\n100000\n"));
  CHECK(host.bytes == host.received.size());
}

TEST_CASE("a dump stream waits for room on the channel") {
  Host host;
  host.room = false;
  DumpStream stream(run_tool("seq 1 1000"), host.output());
  stream.add_credit(1 << 20);
  Host::idle();
  CHECK(host.received.empty());
  host.room = true;
  stream.resume();
  host.wait_for_end();
  CHECK(host.bytes == 3893);
}

TEST_CASE("a dump stream sends nothing when another one has filled the channel") {
  Host host;
  DumpStream stream(run_tool("seq 1 1000"), host.output());
  stream.add_credit(1 << 20);
  host.room = false;
  Host::idle();
  CHECK(host.received.empty());
  host.room = true;
  stream.resume();
  host.wait_for_end();
  CHECK(host.bytes == 3893);
}

TEST_CASE("a tool that fails ends its stream with the reason") {
  Host host;
  DumpStream stream(run_tool("echo half a dump; echo the table is gone >&2; exit 3"), host.output());
  stream.add_credit(1 << 20);
  host.wait_for_end();
  REQUIRE(host.failure);
  CHECK(host.received == "half a dump\n");
  CHECK(host.failure->find("the table is gone") != std::string::npos);
}

TEST_CASE("a stream that is dropped ends its tool and says nothing more") {
  Host host;
  int alive[2];
  REQUIRE(::pipe2(alive, O_NONBLOCK) == 0);  // inherited by the tool: end of file when it is gone
  {
    DumpStream stream(run_tool("yes"), host.output());
    ::close(alive[1]);
    stream.add_credit(1000);
    host.wait_for(1000);
    CHECK(host.received.size() == 1000);
  }
  const Deadline deadline(std::chrono::seconds(20));
  char none = 0;
  while (::read(alive[0], &none, 1) != 0 && !deadline.passed())
    Host::idle();
  CHECK_FALSE(deadline.passed());
  CHECK_FALSE(host.failure);
  ::close(alive[0]);
}
