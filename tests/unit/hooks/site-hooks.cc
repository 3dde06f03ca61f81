// SPDX-License-Identifier: LGPL-2.1-or-later
#include "hooks/site-hooks.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
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

/// Two directories of hooks, removed at the end.
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

  static SiteHook script(const fs::path& path, const std::string& body, unsigned mode = 0755) {
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(path, static_cast<fs::perms>(mode));
    return {path, {}};
  }
  [[nodiscard]] Names names() const {
    Names found;
    for (const SiteHook& hook : find_site_hooks({first, second}))
      found.push_back(hook.path.filename().native());
    return found;
  }
  /// Of the only hook.
  [[nodiscard]] std::string fault() const {
    const auto hooks = find_site_hooks({first, second});
    REQUIRE(hooks.size() == 1);
    return hooks[0].fault;
  }

  const fs::path root = make_root();
  const fs::path first = root / "first.d";
  const fs::path second = root / "second.d";
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

TEST_CASE("site hooks run in the order of their names over all directories") {
  const Site site;
  CHECK(site.names() == Names{});
  for (const char* name : {"30-c", "10-a"})
    Site::script(site.first / name, "");
  for (const char* name : {"20-b", "10-a", "40-d"})
    Site::script(site.second / name, "");
  CHECK(site.names() == Names{"10-a", "10-a", "20-b", "30-c", "40-d"});
  const auto hooks = find_site_hooks({site.second, site.first, site.root / "missing"});
  REQUIRE(hooks.size() == 5);
  CHECK(hooks[0].path == site.first / "10-a");
  CHECK(hooks[1].path == site.second / "10-a");
  for (const SiteHook& hook : hooks)
    CHECK(hook.fault.empty());
}

TEST_CASE("leftovers, plain files and directories are no hooks") {
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

TEST_CASE("a hook that others could have written has a fault") {
  const Site site;
  const fs::path path = site.first / "hook";
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

TEST_CASE("a hook with a fault is not run") {
  const Site site;
  SiteHook hook = Site::script(site.first / "hook", fmt::format("touch {}/ran", site.root.native()));
  hook.fault = "anybody could have written it";
  CHECK(run_site_hook(hook, "freeze", soon()).failure == hook.fault);
  CHECK_FALSE(fs::exists(site.root / "ran"));
}

TEST_CASE("a directory that cannot be read fails rather than hide its hooks") {
  const Site site;
  std::ofstream(site.root / "file") << "no directory";
  const auto hooks = find_site_hooks({site.root / "file"});
  REQUIRE(hooks.size() == 1);
  CHECK(contains(hooks[0].fault, "cannot be read"));
}

TEST_CASE("a hook gets its verb, and its exit status is heard") {
  const Site site;
  const SiteHook hook = Site::script(site.first / "hook",
                                     fmt::format("echo \"$# $1\" >>{}/log; [ \"$1\" = freeze ]", site.root.native()));
  const SiteHookRun good = run_site_hook(hook, "freeze", soon());
  CHECK(good.name == hook.path.native());
  CHECK(good.failure == "");
  CHECK(run_site_hook(hook, "thaw", soon()).failure == "exit status 1");
  CHECK(read(site.root / "log") == "1 freeze\n1 thaw\n");
  CHECK(run_site_hook(Site::script(site.first / "dies", "kill -KILL $$"), "freeze", soon()).failure ==
        "ended by signal 9");
  std::ofstream(site.first / "broken") << "#!/nowhere/interpreter\n";
  fs::permissions(site.first / "broken", fs::perms(0755));
  CHECK(contains(run_site_hook({site.first / "broken", {}}, "freeze", soon()).failure, "cannot be started"));
}

TEST_CASE("a hook whose exit status is lost has failed") {
  const Site site;
  const SiteHook hook = Site::script(site.first / "hook", "exit 0");
  // Children are reaped by the kernel then.
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  const SiteHookRun run = run_site_hook(hook, "freeze", soon());
  ::signal(SIGCHLD, before);
  CHECK(run.failure != "");
}

TEST_CASE("a hook that takes too long ends with its children") {
  const Site site;
  const SiteHook hook = Site::script(
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
