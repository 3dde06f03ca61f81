// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/host-config.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

using namespace stillpoint;

namespace {

struct ConfigFile {
  explicit ConfigFile(std::string_view text) { replace_file(path, text); }
  ~ConfigFile() { ::unlink(path.c_str()); }
  std::filesystem::path path = std::filesystem::temp_directory_path() / fmt::format("stillpoint-conf-{}", ::getpid());
};

/// The message of reading it.
std::string fault(std::string_view text) {
  const ConfigFile file(text);
  try {
    static_cast<void>(read_host_config(file.path, true));
  } catch (const ConfigError& e) {
    return std::string(e.what()).substr(file.path.native().size());
  }
  return "accepted";
}

}  // namespace

TEST_CASE("the configuration file is read") {
  const ConfigFile file(
      "# why\n[repository]\nurl=/srv/sp\n[libvirt]\nuri=test:///default\n[backup]\nscratch_directory=/scratch\n"
      "compression=none\n");
  const HostConfig config = read_host_config(file.path, false);
  CHECK(config.repository_url == "/srv/sp");
  CHECK(config.libvirt_uri == "test:///default");
  CHECK(config.scratch_directory == "/scratch");
  CHECK(config.compression == 0);
}

TEST_CASE("what it does not know is an error that says where") {
  CHECK(fault("[repositry]\nurl=/x\n") == ": there is no group [repositry]");
  CHECK(fault("[repository]\npath=/x\n") == ": group [repository] has no key 'path'");
  CHECK(fault("[repository]\nurl=\n") == ": [repository] url is empty");
  CHECK(fault("[backup]\nscratch_directory=tmp\n") == ": [backup] scratch_directory 'tmp' is not an absolute path");
  CHECK(fault("[backup]\ncompression=20\n") ==
        ": [backup] compression '20' is neither none nor a level of zstd from 1 to 19");
  CHECK(fault("url=/x\n").starts_with(": "));
  CHECK(fault("") == "accepted");
}

TEST_CASE("a missing file is an empty one unless it was asked for") {
  CHECK(read_host_config("/nonexistent/stillpoint.conf", false).repository_url.empty());
  CHECK_THROWS_AS(static_cast<void>(read_host_config("/nonexistent/stillpoint.conf", true)), ConfigError);
}
