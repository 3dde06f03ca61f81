// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/copy-out.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "host/commands/output-file.hh"

#include <fmt/format.h>

#include <system_error>

namespace stillpoint {

namespace {

class CountedSink : public TreeSink {
 public:
  CountedSink(TreeSink& sink, CaptureProgress& progress) : sink_(sink), progress_(progress) {}
  void entry(const TreeEntry& entry) override {
    sink_.entry(entry);
    bytes_ += entry.size;
    progress_.advance(bytes_, bytes_);
  }

 private:
  TreeSink& sink_;
  CaptureProgress& progress_;
  std::uint64_t bytes_ = 0;
};

TreeCounts write_tree(GuestFiles& files, const GuestFiles::Place& place, const std::filesystem::path& target,
                      const TreeFilter& filter, CaptureProgress& progress) {
  SharedReader disk(files.disk(place));
  TreeWriter writer(target, std::nullopt, disk);
  FilteredSink filtered(writer, filter);
  CountedSink sink(filtered, progress);
  files.walk(place, true, sink);
  return writer.finish();
}

/// A directory that goes with the scope.
class StagingDirectory {
 public:
  explicit StagingDirectory(const std::filesystem::path& beside)
      : path_(beside.native() + fmt::format(".{}.partial", random_id().substr(0, 8))) {}
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;
  ~StagingDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::filesystem::path base_name(const GuestFiles::Place& place) {
  return place.path.substr(place.path.rfind('/') + 1);
}

/// Without a trailing slash, which would make names beside it names inside it.
std::filesystem::path without_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

std::filesystem::path copy_target(const GuestFiles::Place& place, const std::filesystem::path& target) {
  std::error_code none;
  std::filesystem::path made = without_slash(target);
  if (std::filesystem::is_directory(target, none)) {
    if (place.path.empty())
      throw UsageError(
          fmt::format("{} exists, and the root of a file system has no name to be put in it", target.native()),
          "name a target that does not exist");
    made = target / base_name(place);
  }
  if (std::filesystem::exists(std::filesystem::symlink_status(made, none)))
    throw UsageError(fmt::format("{} exists", made.native()), "name another target");
  return made;
}

TreeCounts copy_out(GuestFiles& files, const GuestFiles::Place& place, const std::filesystem::path& target,
                    const TreeFilter& filter, CaptureProgress& progress) {
  if (place.entry.type == EntryType::directory) return write_tree(files, place, target, filter, progress);
  // The writer puts a single file into a directory of its own.
  const StagingDirectory staging(target);
  TreeCounts counts = write_tree(files, place, staging.path(), filter, progress);
  const std::filesystem::path written = staging.path() / base_name(place);
  std::error_code none;
  if (std::filesystem::exists(std::filesystem::symlink_status(written, none))) rename_new(written, target);
  return counts;
}

TarCounts archive_out(GuestFiles& files, const GuestFiles::Place& place, const std::string& name,
                      const TreeFilter& filter, const TarWriter::Output& output, CaptureProgress& progress) {
  TarWriter writer(place.path, name, files.disk(place), output);
  FilteredSink filtered(writer, filter);
  CountedSink sink(filtered, progress);
  files.walk(place, true, sink);
  return writer.finish();
}

}  // namespace stillpoint
