// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/report-copy.hh"

#include "common/errors.hh"
#include "common/json.hh"
#include "common/protocol.hh"
#include "host/capture/file-system-reader.hh"
#include "host/commands/guest-path.hh"
#include "host/commands/tree-layout.hh"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace stillpoint {

namespace {

ReportCopy absent(std::string reason) {
  return {ReportCopy::State::absent, std::move(reason)};
}

ReportCopy unknown(std::string reason) {
  return {ReportCopy::State::unknown, std::move(reason)};
}

/// The file system that the guest has at that path; the last one where several are mounted on one directory.
const GuestFileSystem* holder_of(const std::vector<GuestFileSystem>& mounted, std::string_view path) {
  const GuestFileSystem* best = nullptr;
  for (const GuestFileSystem& file_system : mounted)
    if (path_below(file_system.mount_point, path) &&
        (best == nullptr || file_system.mount_point.size() >= best->mount_point.size()))
      best = &file_system;
  return best;
}

std::string text_of(BlockReader& disk, const TreeEntry& file) {
  if (file.type != EntryType::file) throw CaptureError("it is no regular file");
  if (file.size > JsonLimits().bytes) throw CaptureError(fmt::format("it has {} bytes", file.size));
  std::string text;
  read_file(disk, file, [&](const FileContent& piece) {
    if (piece.bytes.empty())
      text.append(piece.length, '\0');
    else
      std::transform(piece.bytes.begin(), piece.bytes.end(), std::back_inserter(text),
                     [](std::byte byte) { return static_cast<char>(byte); });
  });
  return text;
}

/// Compares what that file of the block snapshot says with what the agent said.
ReportCopy compare(FileSystemReader& files, BlockReader& disk, const FileSystem& file_system, const std::string& path,
                   const Report& report) {
  if (!file_system.clean) return absent("its file system was not frozen: the journal is not written out");
  const std::optional<TreeEntry> file = files.look(file_system, path);
  if (!file) return absent("there is no such file");
  const Report copy = parse_report(parse_json(text_of(disk, *file), "the report in the block snapshot"));
  if (copy.id != report.id) return absent("the report there is of another still point");
  if (!copy.quiesced) return absent("the report there does not say that the databases were quiesced");
  return {ReportCopy::State::present, {}};
}

}  // namespace

ReportCopy find_report_copy(const Report& report, const std::vector<DiskSource>& disks,
                            const std::vector<GuestFileSystem>& mounted) {
  const std::string path = report.path.empty() ? std::string(protocol::report_path) : report.path;
  const GuestFileSystem* holder = holder_of(mounted, path);
  if (holder == nullptr) return unknown("the guest does not say where it is mounted");
  if (holder->targets.size() != 1) return unknown(fmt::format("{} does not lie on one disk", holder->mount_point));
  const std::string& target = holder->targets.front();
  const auto source = std::find_if(disks.begin(), disks.end(), [&](const DiskSource& d) { return d.target == target; });
  if (source == disks.end()) return unknown(fmt::format("disk {} is left out", target));
  const auto disk = source->open();
  try {
    FileSystemReader files(*disk);
    for (const FileSystem& file_system : files.file_systems()) {
      if (partition_of(*holder) != file_system.partition) continue;
      if (!file_system.readable()) return unknown(fmt::format("{} is not read yet", file_system.type));
      return compare(files, *disk, file_system, *path_below(holder->mount_point, path), report);
    }
  } catch (const CaptureError& error) {
    return absent(error.what());
  } catch (const Corruption& error) {
    return absent(error.what());
  } catch (const ProtocolError& error) {
    return absent(error.what());
  }
  return unknown(fmt::format("{} does not lie on {} directly", holder->mount_point, target));
}

}  // namespace stillpoint
