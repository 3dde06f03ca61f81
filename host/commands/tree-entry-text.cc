// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/tree-entry-text.hh"

#include "common/clock.hh"
#include "host/commands/table.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

std::string base_name(const TreeEntry& entry) {
  return entry.path.substr(entry.path.rfind('/') + 1);
}

WallTime time_of(const TreeEntry& entry) {
  return WallTime(std::chrono::floor<std::chrono::microseconds>(std::chrono::nanoseconds(entry.mtime_ns)));
}

bool is_device(const TreeEntry& entry) {
  return entry.type == EntryType::character_device || entry.type == EntryType::block_device;
}

char type_letter(EntryType type) {
  switch (type) {
    case EntryType::file:
      return '-';
    case EntryType::directory:
      return 'd';
    case EntryType::symlink:
      return 'l';
    case EntryType::fifo:
      return 'p';
    case EntryType::socket:
      return 's';
    case EntryType::character_device:
      return 'c';
    case EntryType::block_device:
      return 'b';
  }
  return '?';
}

}  // namespace

std::string_view type_name(EntryType type) {
  switch (type) {
    case EntryType::file:
      return "file";
    case EntryType::directory:
      return "directory";
    case EntryType::symlink:
      return "symlink";
    case EntryType::fifo:
      return "fifo";
    case EntryType::socket:
      return "socket";
    case EntryType::character_device:
      return "character device";
    case EntryType::block_device:
      return "block device";
  }
  return "unknown";
}

std::string mode_text(const TreeEntry& entry) {
  std::string text(1, type_letter(entry.type));
  for (const unsigned shift : {6U, 3U, 0U}) {
    const unsigned bits = entry.mode >> shift;
    text += (bits & 4U) != 0 ? 'r' : '-';
    text += (bits & 2U) != 0 ? 'w' : '-';
    text += (bits & 1U) != 0 ? 'x' : '-';
  }
  const auto special = [&](unsigned bit, std::size_t at, char set) {
    if ((entry.mode & bit) == 0) return;
    // Upper case where the execute bit below it is missing.
    text[at] = text[at] == 'x' ? set : static_cast<char>(set - 'a' + 'A');
  };
  special(04000, 3, 's');
  special(02000, 6, 's');
  special(01000, 9, 't');
  return text;
}

std::string entries_text(const std::vector<TreeEntry>& entries) {
  Table table({{"MODE"}, {"OWNER"}, {"SIZE", Table::Align::right}, {"MODIFIED"}, {"NAME"}});
  for (const TreeEntry& entry : entries)
    table.add({mode_text(entry), fmt::format("{}:{}", entry.uid, entry.gid),
               is_device(entry) ? fmt::format("{}, {}", entry.device_major, entry.device_minor)
                                : fmt::format("{}", entry.size),
               format_time(time_of(entry)),
               entry.type == EntryType::symlink ? fmt::format("{} -> {}", base_name(entry), entry.target)
                                                : base_name(entry)});
  return table.text();
}

Json entry_json(const TreeEntry& entry) {
  Json json{{"name", base_name(entry)},
            {"type", type_name(entry.type)},
            {"mode", fmt::format("{:04o}", entry.mode)},
            {"uid", entry.uid},
            {"gid", entry.gid},
            {"size", entry.size},
            {"mtime_ns", entry.mtime_ns},
            {"inode", entry.inode},
            {"links", entry.links}};
  if (entry.type == EntryType::symlink) json["target"] = entry.target;
  if (is_device(entry)) {
    json["major"] = entry.device_major;
    json["minor"] = entry.device_minor;
  }
  return json;
}

}  // namespace stillpoint
