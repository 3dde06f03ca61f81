// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/program.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

using namespace stillpoint;

namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using Names = std::vector<std::string>;

fs::path make_root() {
  std::string pattern = (fs::temp_directory_path() / "stillpoint-test-XXXXXX").native();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

/// Two directories of programs, removed at the end.
struct Site {
  Site() {
    fs::create_directory(first);
    fs::create_directory(second);
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;
  ~Site() {
    std::error_code ignored;
    fs::remove_all(root, ignored);
  }

  static void script(const fs::path& path, const std::string& body, unsigned mode = 0755) {
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(path, static_cast<fs::perms>(mode));
  }
  [[nodiscard]] Names names() const {
    Names found;
    for (const FoundProgram& program : find_programs({first, second}))
      found.push_back(program.path.filename().native());
    return found;
  }
  /// Of the only program.
  [[nodiscard]] std::string fault() const {
    const auto found = find_programs({first, second});
    REQUIRE(found.size() == 1);
    return found[0].fault;
  }

  const fs::path root = make_root();
  const fs::path first = root / "first.d";
  const fs::path second = root / "second.d";
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A shell command with its two intakes.
struct Command {
  explicit Command(const std::string& command, int lifeline = -1, std::size_t most = 1000)
      : Command(command, lifeline, most, open_pipe("output"), open_pipe("errors")) {}
  Command(const std::string& command, int lifeline, std::size_t most, Pipe output, Pipe errors)
      : program({"/bin/sh", {"-c", command}, {"PATH=/usr/bin:/bin"}, {}},
                {output.write_end.get(), errors.write_end.get(), lifeline}),
        intakes{Intake(std::move(output.read_end), most, Intake::Keep::all),
                Intake(std::move(errors.read_end), 10, Intake::Keep::end)} {}

  /// How it ended.
  std::string end() {
    CHECK(program.wait(Deadline(seconds(60)), intakes));
    return describe_status(program.end_group());
  }
  [[nodiscard]] const std::string& output() const { return intakes[0].text(); }

  RunningProgram program;
  std::array<Intake, 2> intakes;
};

}  // namespace

TEST_CASE("programs are found in the order of their names over all directories") {
  const Site site;
  CHECK(site.names() == Names{});
  for (const char* name : {"30-c", "10-a"})
    Site::script(site.first / name, "");
  for (const char* name : {"20-b", "10-a", "40-d"})
    Site::script(site.second / name, "");
  CHECK(site.names() == Names{"10-a", "10-a", "20-b", "30-c", "40-d"});
  const auto programs = find_programs({site.second, site.first, site.root / "missing"});
  REQUIRE(programs.size() == 5);
  CHECK(programs[0].path == site.first / "10-a");
  CHECK(programs[1].path == site.second / "10-a");
  for (const FoundProgram& program : programs)
    CHECK(program.fault.empty());
}

TEST_CASE("leftovers, plain files and directories are no programs") {
  const Site site;
  for (const char* name : {".hidden", "a~", "a.bak", "a.orig", "a.sample", "a.rpmnew", "a.rpmorig", "a.rpmsave",
                           "a.dpkg-old", "a.dpkg-new", "a.dpkg-dist"})
    Site::script(site.first / name, "");
  Site::script(site.first / "plain", "", 0644);
  fs::create_directory(site.first / "directory");
  fs::create_symlink("/nowhere", site.first / "dangling");
  Site::script(site.first / "meant.sh", "");
  CHECK(site.names() == Names{"meant.sh"});
}

TEST_CASE("a program that others could have written has a fault") {
  const Site site;
  const fs::path path = site.first / "program";
  SUBCASE("itself") {
    Site::script(path, "", 0777);
    CHECK(contains(site.fault(), "writable"));
  }
  SUBCASE("its group") {
    Site::script(path, "", 0775);
    CHECK(contains(site.fault(), "writable"));
  }
  SUBCASE("its directory") {
    Site::script(path, "");
    fs::permissions(site.first, fs::perms(0777));
    CHECK(contains(site.fault(), "writable"));
  }
  SUBCASE("where its link leads to") {
    Site::script(site.second / "target.sample", "");
    fs::create_symlink(site.second / "target.sample", path);
    CHECK(site.fault() == "");
    fs::permissions(site.second, fs::perms(0777));
    CHECK(contains(site.fault(), "writable"));
  }
  SUBCASE("another owner") {
    Site::script(path, "");
    if (::geteuid() != 0) return;
    REQUIRE(::chown(path.c_str(), 65534, 65534) == 0);
    CHECK(contains(site.fault(), "does not belong to root"));
  }
}

TEST_CASE("a directory that cannot be read fails rather than hide its programs") {
  const Site site;
  std::ofstream(site.root / "file") << "no directory";
  const auto found = find_programs({site.root / "file"});
  REQUIRE(found.size() == 1);
  CHECK(contains(found[0].fault, "cannot be read"));
}

TEST_CASE("what a program says is taken in, within limits") {
  Command good("echo said; echo a long complaint >&2");
  CHECK(good.end() == "");
  CHECK(good.output() == "said\n");
  CHECK(good.intakes[1].text() == "complaint\n");
  Command endless("while :; do echo more and more; done");
  CHECK(endless.end() != "");
  CHECK(endless.intakes[0].too_long());
  CHECK(endless.output().size() == 1000);
}

TEST_CASE("a program is over when its leader is, whoever keeps its output open") {
  Command command("echo said; sleep 300 & exit 3");
  CHECK(command.end() == "exit status 3");
  CHECK(command.output() == "said\n");
}

TEST_CASE("waiting ends at the deadline and when it is cancelled, and then so does the group") {
  Command late("sleep 300 & wait");
  CHECK_FALSE(late.program.wait(Deadline(std::chrono::milliseconds(50)), late.intakes));
  CHECK(describe_status(late.program.end_group()) == "ended by signal 9");
  CHECK_FALSE(late.program);
  Command cancelled("sleep 300");
  const UniqueFd event(::eventfd(1, EFD_CLOEXEC));
  CHECK_FALSE(cancelled.program.wait(Deadline(seconds(60)), cancelled.intakes, event.get()));
}

TEST_CASE("a program has its lifeline and nothing else of ours") {
  Pipe pipe = open_pipe("a lifeline");
  const UniqueFd stray(::open("/dev/null", O_RDONLY));
  Command command("cat <&3; ls /proc/self/fd | tr '\\n' ' '", pipe.read_end.get());
  CHECK_FALSE(command.program.wait(Deadline(std::chrono::milliseconds(100)), command.intakes));
  pipe.write_end.reset();
  CHECK(command.end() == "");
  CHECK(command.output() == "0 1 2 3 4 ");  // 4: ls has the directory open
}

TEST_CASE("programs on the PATH are found, and what they are to inherit is all of ours") {
  const fs::path shell = program_on_path("sh");
  CHECK(shell.is_absolute());
  CHECK(shell.filename() == "sh");
  CHECK(program_on_path(shell) == shell);
  CHECK(program_on_path("there-is-no-such-program").empty());
  CHECK(program_on_path("/etc/passwd").empty());
  const Names variables = own_environment();
  CHECK(std::ranges::count(variables, std::string("PATH=") + ::getenv("PATH")) == 1);
}

TEST_CASE("a program that is not there cannot be started") {
  const Pipe pipe = open_pipe("output");
  const auto start = [&](const char* path) {
    RunningProgram({path, {}, {}, {}}, {pipe.write_end.get(), pipe.write_end.get()});
  };
  CHECK_THROWS_AS(start("/nowhere/program"), CaptureError);
}
