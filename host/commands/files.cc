// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/commands/command.hh"
#include "host/commands/copy-out.hh"
#include "host/commands/file-name.hh"
#include "host/commands/filter-options.hh"
#include "host/commands/format.hh"
#include "host/commands/guest-files.hh"
#include "host/commands/output-file.hh"
#include "host/commands/output.hh"
#include "host/commands/table.hh"
#include "host/commands/tree-entry-text.hh"
#include "host/commands/watched-progress.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>

namespace stillpoint {

namespace {

struct FilesOptions {
  std::string file;
  std::string target = ".";
  std::string tar;
  std::string pattern;
  FilterOptions filter;
  std::vector<std::string> luks_keys;  ///< files with a passphrase each
  std::string trust;
};

constexpr std::size_t longest_luks_key = 65536;

/// What the files say, without the newline at the end that an editor leaves. Throws UsageError, ConfigError.
std::vector<std::string> read_luks_keys(const std::vector<std::string>& files) {
  std::vector<std::string> keys;
  for (const std::string& file : files) {
    std::string& key = keys.emplace_back(read_text(file, longest_luks_key));
    if (key.ends_with('\n')) key.pop_back();
    if (key.empty() || key.find('\0') != std::string::npos || key.find('\n') != std::string::npos)
      throw UsageError(fmt::format("{} is not one line of text", file),
                       "the key must be a passphrase: binary keys are not taken");
  }
  return keys;
}

/// A still point whose files are looked at.
struct Opened {
  Opened(const Invocation& invocation, const FilesOptions& options, const FileName& name)
      : luks_keys(read_luks_keys(options.luks_keys)),
        repository(invocation.open(Repository::Mode::read)),
        manifest(repository.load(name.still_point)),
        files(repository, manifest) {
    files.use({std::move(luks_keys), invocation.stop}, !options.trust.empty());
  }
  std::vector<std::string> luks_keys;
  Repository repository;
  Manifest manifest;
  GuestFiles files;
};

/// What a directory holds, without what lies deeper and where contents lie.
class Children : public TreeSink {
 public:
  Children(std::string directory, std::stop_token stop) : directory_(std::move(directory)), stop_(std::move(stop)) {}
  void entry(const TreeEntry& entry) override {
    if (stop_.stop_requested()) throw Interrupted("stopped while listing");
    if (entry.path == directory_) return;
    TreeEntry& kept = entries.emplace_back(entry);
    kept.extents = {};
    kept.inline_content = {};
    kept.xattrs = {};
  }
  std::vector<TreeEntry> entries;

 private:
  std::string directory_;
  std::stop_token stop_;
};

void list_file_systems(GuestFiles& files, const Invocation& invocation) {
  Json rows = Json::array();
  Table table({{"FILE SYSTEM"}, {"TYPE"}, {"SIZE", Table::Align::right}, {"MOUNTED ON"}, {"LABEL"}, {"UUID"}});
  const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text; };
  for (const GuestFiles::Named& named : files.file_systems()) {
    const FileSystem& found = named.file_system;
    std::string mount_point = named.mount_point;
    for (const Mount& mount : files.mounts(false))
      if (mount_point.empty() && mount.file_system == named.name) mount_point = mount.mount_point;
    rows.push_back({{"name", named.name},
                    {"type", found.type},
                    {"readable", named.readable()},
                    {"bytes", found.length},
                    {"mount_point", mount_point},
                    {"label", found.label},
                    {"uuid", found.uuid}});
    table.add({named.name, or_dash(found.type), format_size(found.length), or_dash(mount_point), or_dash(found.label),
               or_dash(found.uuid)});
  }
  if (invocation.json)
    print_json(rows);
  else if (!table.empty())
    print_result(table.text());
}

ExitCode ls(const FilesOptions& options, const Invocation& invocation) {
  const FileName name = parse_file_name(options.file);
  Opened opened(invocation, options, name);
  if (name.path.empty()) {
    list_file_systems(opened.files, invocation);
    return ExitCode::success;
  }
  // As ls(1): a link to a directory is followed when the path ends in a slash.
  const auto place = opened.files.find(name.file_system, name.path, name.path.ends_with('/'));
  std::vector<TreeEntry> entries;
  if (place.entry.type == EntryType::directory) {
    Children children(place.path, invocation.stop);
    opened.files.walk(place, false, children);
    entries = std::move(children.entries);
  } else {
    entries = {place.entry};
  }
  std::sort(entries.begin(), entries.end(), [](const TreeEntry& a, const TreeEntry& b) { return a.path < b.path; });
  if (invocation.json) {
    Json rows = Json::array();
    for (const TreeEntry& entry : entries)
      rows.push_back(entry_json(entry));
    print_json(rows);
  } else if (!entries.empty()) {
    print_result(entries_text(entries));
  }
  return ExitCode::success;
}

/// Prints what a walk comes to, as it comes: there may be millions.
class Finds : public TreeSink {
 public:
  /// `place`: where the walk begins in its file system; `path`: what the guest calls that.
  Finds(const GuestFiles::Place& place, std::string path, const FilesOptions& options, const Invocation& invocation)
      : place_(place), path_(std::move(path)), options_(options), invocation_(invocation) {
    while (path_.ends_with('/'))
      path_.pop_back();
  }

  void entry(const TreeEntry& entry) override {
    if (invocation_.stop.stop_requested()) throw Interrupted("stopped while looking");
    const std::string base = entry.path.substr(entry.path.rfind('/') + 1);
    if (!options_.pattern.empty() && ::fnmatch(options_.pattern.c_str(), base.c_str(), 0) != 0) return;
    std::string below = entry.path.substr(std::min(place_.path.size(), entry.path.size()));
    if (!below.empty() && !below.starts_with('/')) below.insert(0, "/");
    const std::string path = path_ + below;
    if (!invocation_.json) return print_result(printable(path.empty() ? "/" : path) + "\n");
    Json row = entry_json(entry);
    row["name"] = path.empty() ? "/" : path;
    print_result((found_++ == 0 ? "[" : ",\n ") + dump_json(row));
  }
  void finish() {
    if (invocation_.json) print_result(found_ == 0 ? "[]\n" : "]\n");
  }

 private:
  const GuestFiles::Place& place_;
  std::string path_;
  const FilesOptions& options_;
  const Invocation& invocation_;
  std::uint64_t found_ = 0;
};

ExitCode find(const FilesOptions& options, const Invocation& invocation) {
  const FileName name = parse_file_name(options.file);
  if (name.path.empty())
    throw UsageError(fmt::format("'{}' names no directory", options.file), "add its path, as in web1:/etc");
  Opened opened(invocation, options, name);
  const auto place = opened.files.find(name.file_system, name.path, name.path.ends_with('/'));
  Finds finds(place, name.path, options, invocation);
  opened.files.walk(place, true, finds);
  finds.finish();
  for (const std::string& warning : opened.files.warnings())
    log_warning("{}", warning);
  return ExitCode::success;
}

void write_zeros(std::uint64_t length, const std::stop_token& stop) {
  static constexpr std::array<std::byte, 65536> zeros{};
  for (; length > 0; length -= std::min<std::uint64_t>(length, zeros.size())) {
    if (stop.stop_requested()) throw Interrupted("stopped");
    write_all(STDOUT_FILENO, std::span(zeros).first(static_cast<std::size_t>(std::min<std::uint64_t>(length, 65536))),
              "standard output");
  }
}

ExitCode cat(const FilesOptions& options, const Invocation& invocation) {
  if (invocation.json)
    throw UsageError("--json and a file cannot share standard output", "leave --json out, or use 'files cp'");
  const FileName name = parse_file_name(options.file);
  if (name.path.empty())
    throw UsageError(fmt::format("'{}' names no file", options.file), "add its path, as in web1:/etc/hosts");
  Opened opened(invocation, options, name);
  const auto place = opened.files.find(name.file_system, name.path, true);
  if (place.entry.type != EntryType::file)
    throw UsageError(fmt::format("{} is a {}", options.file, type_name(place.entry.type)), "only files can be read");
  read_file(opened.files.disk(place), place.entry, [&](const FileContent& content) {
    if (invocation.stop.stop_requested()) throw Interrupted("stopped before the file was complete");
    if (content.bytes.empty())
      write_zeros(content.length, invocation.stop);
    else
      write_all(STDOUT_FILENO, content.bytes, "standard output");
  });
  return ExitCode::success;
}

/// `write`: where the archive goes.
TarCounts archive(Opened& opened, const GuestFiles::Place& place, const std::string& path, const TreeFilter& filter,
                  const Invocation& invocation, const TarWriter::Output& write) {
  // As tar -C / -c etc: what is copied keeps its own name, the root has none.
  const std::string name = place.path.empty() ? "." : place.path.substr(place.path.rfind('/') + 1);
  Progress progress(invocation.progress, STDERR_FILENO);
  WatchedProgress watched(progress.line(path), invocation.stop, "stopped before the archive was complete");
  const auto output = [&](std::span<const std::byte> bytes) {
    if (invocation.stop.stop_requested()) throw Interrupted("stopped before the archive was complete");
    if (!bytes.empty()) write(bytes);
  };
  return archive_out(opened.files, place, name, filter, output, watched);
}

ExitCode cp_to_tar(const FilesOptions& options, const TreeFilter& filter, const Invocation& invocation) {
  const bool to_stdout = options.tar == "-";
  if (to_stdout && invocation.json)
    throw UsageError("--json and an archive cannot share standard output", "leave --json out, or name a file");
  if (to_stdout && ::isatty(STDOUT_FILENO) == 1)
    throw UsageError("an archive is nothing for a terminal", "name a file, or pipe it into tar -x");
  const FileName name = parse_file_name(options.file);
  if (name.path.empty())
    throw UsageError(fmt::format("'{}' names no file", options.file), "add its path, as in web1:/etc");
  if (!to_stdout) check_output_path(options.tar, false);
  Opened opened(invocation, options, name);
  const auto place = opened.files.find(name.file_system, name.path, name.path.ends_with('/'));
  TarCounts counts;
  if (to_stdout) {
    counts = archive(opened, place, name.path, filter, invocation,
                     [](std::span<const std::byte> bytes) { write_all(STDOUT_FILENO, bytes, "standard output"); });
  } else {
    OutputFile file(options.tar, false);
    counts = archive(opened, place, name.path, filter, invocation,
                     [&](std::span<const std::byte> bytes) { file.write(bytes); });
    file.commit();
  }
  const std::vector<std::string> left_out = opened.files.warnings();
  counts.warnings.insert(counts.warnings.end(), left_out.begin(), left_out.end());
  for (const std::string& warning : counts.warnings)
    log_warning("{}", warning);
  if (invocation.json)
    print_json({{"name", opened.manifest.name},
                {"to", options.tar},
                {"entries", counts.entries},
                {"bytes", counts.bytes},
                {"warnings", counts.warnings}});
  return ExitCode::success;
}

ExitCode cp(const FilesOptions& options, const Invocation& invocation) {
  const TreeFilter filter = options.filter.filter();
  if (!options.tar.empty()) return cp_to_tar(options, filter, invocation);
  if (options.target == "-") return cat(options, invocation);
  const FileName name = parse_file_name(options.file);
  if (name.path.empty())
    throw UsageError(fmt::format("'{}' names no file", options.file), "add its path, as in web1:/etc/hosts");
  Opened opened(invocation, options, name);
  const auto place = opened.files.find(name.file_system, name.path, name.path.ends_with('/'));
  const std::filesystem::path target = copy_target(place, options.target);
  TreeCounts counts;
  {
    Progress progress(invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(name.path), invocation.stop, "stopped before the copy was complete");
    counts = copy_out(opened.files, place, target, filter, watched);
  }
  const std::vector<std::string> left_out = opened.files.warnings();
  counts.warnings.insert(counts.warnings.end(), left_out.begin(), left_out.end());
  for (const std::string& warning : counts.warnings)
    log_warning("{}", warning);
  if (invocation.json)
    print_json({{"name", opened.manifest.name},
                {"to", target.native()},
                {"entries", counts.entries},
                {"bytes", counts.bytes},
                {"warnings", counts.warnings}});
  return ExitCode::success;
}

}  // namespace

RunVerb add_files(CLI::App& parser) {
  const auto options = std::make_shared<FilesOptions>();
  const char* file = "NAME:/PATH in the guest, or NAME:FILESYSTEM:/PATH";
  parser.require_subcommand(1);
  const auto add = [&](const char* verb, const char* summary) {
    CLI::App* sub = parser.add_subcommand(verb, summary);
    sub->fallthrough();
    sub->add_option("--luks-key-file", options->luks_keys, "passphrase of what is encrypted; may be given again")
        ->type_name("FILE");
    sub->add_option("--trust-guest", options->trust, "have this machine's kernel mount what is not read in a sandbox")
        ->check(CLI::IsMember({"kernel-mount"}))
        ->type_name("kernel-mount");
    sub->footer("Options of every verb: stillpoint --help");
    return sub;
  };
  CLI::App* const list = add("ls", "list a directory, or the file systems of a still point");
  list->add_option("FILE", options->file, std::string(file) + "; NAME alone lists the file systems")->required();
  CLI::App* const search = add("find", "list a directory with all below it, or what of it has a name");
  search->add_option("FILE", options->file, file)->required();
  search->add_option("--name", options->pattern, "only names that match, as in '*.cnf'")->type_name("PATTERN");
  CLI::App* const read = add("cat", "write a file to standard output");
  read->add_option("FILE", options->file, file)->required();
  CLI::App* const copy = add("cp", "copy a file or a directory with all below it, with its metadata");
  copy->add_option("FILE", options->file, file)->required();
  CLI::Option* const target =
      copy->add_option("TARGET", options->target, "a directory, a new name, or - for standard output (.)");
  copy->add_option("--to-tar", options->tar, "write a tar archive instead: a new file, or - for standard output")
      ->type_name("FILE")
      ->excludes(target);
  options->filter.add_to(*copy);
  return [options, list, search, read](const Invocation& invocation) {
    if (list->parsed()) return ls(*options, invocation);
    if (search->parsed()) return find(*options, invocation);
    return read->parsed() ? cat(*options, invocation) : cp(*options, invocation);
  };
}

}  // namespace stillpoint
