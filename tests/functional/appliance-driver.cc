// SPDX-License-Identifier: LGPL-2.1-or-later
// appliance-driver TARGET DISK=IMAGE... [--key PASSPHRASE]...   writes the trees of all file systems that an appliance
// finds on raw images to TARGET/<name>, with "_" for "/"
#include "common/errors.hh"
#include "host/capture/appliance-reader.hh"
#include "host/capture/raw-image.hh"
#include "host/capture/shared-reader.hh"
#include "host/capture/tree-writer.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

int main(int count, char** words) {
  using namespace stillpoint;
  if (count < 3) return 2;
  try {
    const std::filesystem::path target = words[1];
    std::vector<std::unique_ptr<RawImage>> images;
    std::vector<NamedDisk> disks;
    ApplianceOptions options;
    for (int i = 2; i < count; ++i) {
      const std::string word = words[i];
      if (word == "--key" && i + 1 < count) {
        options.keys.emplace_back(words[++i]);
        continue;
      }
      const std::size_t equals = word.find('=');
      images.push_back(std::make_unique<RawImage>(word.substr(equals + 1)));
      disks.push_back({word.substr(0, equals), images.back().get()});
    }
    ApplianceReader reader(std::move(disks), std::move(options));
    std::filesystem::create_directory(target);
    for (const FileSystem& found : reader.file_systems()) {
      fmt::print("{} {} {} {}\n", found.volume, found.type, found.length, found.obstacle);
      std::fflush(stdout);
      if (!found.readable()) continue;
      std::string name = found.volume;
      std::replace(name.begin(), name.end(), '/', '_');
      SharedReader content(reader.content());
      TreeWriter writer(target / name, std::nullopt, content);
      reader.walk(found, "", true, writer);
      const TreeCounts counts = writer.finish();
      fmt::print("entries={} bytes={}\n", counts.entries, counts.bytes);
      for (const std::string& warning : counts.warnings)
        fmt::print("warning: {}\n", warning);
    }
    for (const std::string& warning : reader.warnings())
      fmt::print("warning: {}\n", warning);
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
