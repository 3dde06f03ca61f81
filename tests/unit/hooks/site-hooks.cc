// SPDX-License-Identifier: LGPL-2.1-or-later
#include "hooks/site-hooks.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

using namespace stillpoint;

namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

fs::path make_root() {
  std::string pattern = (fs::temp_directory_path() / "stillpoint-test-XXXXXX").native();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

/// A directory of hooks, removed at the end.
struct Site {
  Site() { fs::create_directory(first); }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;
  ~Site() {
    std::error_code ignored;
    fs::remove_all(root, ignored);
  }

  static FoundProgram script(const fs::path& path, const std::string& body) {
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(path, fs::perms(0755));
    return {path, {}};
  }

  const fs::path root = make_root();
  const fs::path first = root / "first.d";
};

std::string read(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Deadline soon() {
  return Deadline(seconds(60));
}

}  // namespace

TEST_CASE("a hook with a fault is not run") {
  const Site site;
  FoundProgram hook = Site::script(site.first / "hook", fmt::format("touch {}/ran", site.root.native()));
  hook.fault = "anybody could have written it";
  CHECK(run_site_hook(hook, "freeze", soon()).failure == hook.fault);
  CHECK_FALSE(fs::exists(site.root / "ran"));
}

TEST_CASE("a hook gets its verb, and its exit status is heard") {
  const Site site;
  const FoundProgram hook = Site::script(
      site.first / "hook", fmt::format("echo \"$# $1\" >>{}/log; [ \"$1\" = freeze ]", site.root.native()));
  const SiteHookRun good = run_site_hook(hook, "freeze", soon());
  CHECK(good.name == hook.path.native());
  CHECK(good.failure == "");
  CHECK(run_site_hook(hook, "thaw", soon()).failure == "exit status 1");
  CHECK(read(site.root / "log") == "1 freeze\n1 thaw\n");
  CHECK(run_site_hook(Site::script(site.first / "dies", "kill -KILL $$"), "freeze", soon()).failure ==
        "ended by signal 9");
  std::ofstream(site.first / "broken") << "#!/nowhere/interpreter\n";
  fs::permissions(site.first / "broken", fs::perms(0755));
  CHECK(contains(run_site_hook({site.first / "broken", {}}, "freeze", soon()).failure, "cannot run"));
}

TEST_CASE("a hook whose exit status is lost has failed") {
  const Site site;
  const FoundProgram hook = Site::script(site.first / "hook", "exit 0");
  // Children are reaped by the kernel then.
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  const SiteHookRun run = run_site_hook(hook, "freeze", soon());
  ::signal(SIGCHLD, before);
  CHECK(run.failure != "");
}

TEST_CASE("a hook that takes too long ends with its children") {
  const Site site;
  const FoundProgram hook = Site::script(
      site.first / "hook", fmt::format("sleep 300 & echo $! >{0}/new; mv {0}/new {0}/child; wait", site.root.native()));
  SiteHookRun run;
  // Long enough for the script to begin, whatever else this machine does.
  for (int milliseconds = 250; milliseconds < 60000 && !fs::exists(site.root / "child"); milliseconds *= 2) {
    run = run_site_hook(hook, "freeze", Deadline(std::chrono::milliseconds(milliseconds)));
    CHECK(run.took.count() >= milliseconds);
  }
  CHECK(run.failure == "did not end in time");
  const fs::path child = "/proc/" + std::to_string(std::stoi(read(site.root / "child"))) + "/stat";
  const auto lives = [&] {
    const std::string stat = read(child);  // empty when it is gone; a zombie waits for its new parent
    return !stat.empty() && !contains(stat, ") Z ");
  };
  for (int i = 0; i < 1000 && lives(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK_FALSE(lives());
}
