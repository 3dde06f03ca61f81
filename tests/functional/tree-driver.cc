// SPDX-License-Identifier: LGPL-2.1-or-later
// tree-driver IMAGE TARGET [PREVIOUS]   writes the trees of a raw image's file systems to TARGET/<partition>
#include "common/errors.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/nbd-disk.hh"
#include "host/capture/tree-writer.hh"

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>

int main(int count, char** words) {
  using namespace stillpoint;
  if (count < 3) return 2;
  try {
    NbdDisk disk = NbdDisk::image(words[1], "raw");
    SharedReader shared(disk);
    FileSystemReader reader(shared);
    const std::filesystem::path target = words[2];
    std::filesystem::create_directory(target);
    for (const FileSystem& found : reader.file_systems()) {
      fmt::print("{} {} {} {}\n", found.partition, found.type, found.label, found.clean ? "clean" : "journal");
      if (!found.readable()) continue;
      const std::string name = std::to_string(found.partition);
      std::optional<std::filesystem::path> previous;
      if (count > 3) previous = std::filesystem::path(words[3]) / name;
      TreeWriter writer(target / name, previous, shared, TreeOwners::as_attributes);
      reader.walk(found, "", true, writer);
      const TreeCounts counts = writer.finish();
      fmt::print("entries={} written={}\n", counts.entries, counts.files_written);
      for (const std::string& warning : counts.warnings)
        fmt::print("warning: {}\n", warning);
    }
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
