// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/mount-table.hh"

#include "common/errors.hh"
#include "host/commands/guest-path.hh"

#include <algorithm>
#include <cctype>
#include <deque>

namespace stillpoint {

namespace {

constexpr std::size_t longest_table = 256 << 10;
constexpr std::size_t most_lines = 1024;

struct TableLine {
  std::string source;
  std::string mount_point;
  std::string type;
  std::vector<std::string> options;

  [[nodiscard]] bool has(std::string_view option) const {
    return std::find(options.begin(), options.end(), option) != options.end();
  }
};

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(separators), text.size());
    if (end > 0) words.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

/// Blanks in a table are written as three octal digits.
std::string unescaped(std::string_view text) {
  const auto digit = [&](std::size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '7'; };
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

/// "/srv/a" for "/srv//a/"; nothing for what is no absolute path, or not what it seems.
std::optional<std::string> plain_path(std::string_view text) {
  if (!text.starts_with('/') || text.size() > 4096) return std::nullopt;
  const std::deque<std::string> parts = path_parts(text);
  if (std::find(parts.begin(), parts.end(), "..") != parts.end()) return std::nullopt;
  return joined_path({parts.begin(), parts.end()});
}

std::vector<TableLine> parse_table(std::string_view text) {
  std::vector<TableLine> lines;
  for (const std::string& line : split(text, "\n")) {
    const std::vector<std::string> words = split(line, " \t\r");
    if (words.size() < 3 || words[0].starts_with('#') || lines.size() == most_lines) continue;
    const std::optional<std::string> mount_point = plain_path(unescaped(words[1]));
    if (!mount_point) continue;
    TableLine parsed{unescaped(words[0]), *mount_point, words[2], {}};
    if (words.size() > 3) parsed.options = split(words[3], ",");
    if (!parsed.has("noauto")) lines.push_back(std::move(parsed));
  }
  return lines;
}

std::string unquoted(std::string_view text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return std::string(text);
}

bool same_uuid(std::string_view a, std::string_view b) {
  return !a.empty() && std::equal(a.begin(), a.end(), b.begin(), b.end(),
                                  [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

/// "vg--0-root" for "vg-0/root".
std::string mapper_name(std::string_view volume) {
  std::string name;
  for (const char c : volume)
    name += c == '-' ? "--" : c == '/' ? "-" : std::string(1, c);
  return name;
}

bool names(std::string_view source, const MountCandidate& candidate) {
  const FileSystem& found = *candidate.file_system;
  const auto behind = [&source](std::string_view prefix) {
    return source.starts_with(prefix) ? std::optional(unquoted(source.substr(prefix.size()))) : std::nullopt;
  };
  for (const char* prefix : {"UUID=", "/dev/disk/by-uuid/"})
    if (const auto uuid = behind(prefix)) return same_uuid(*uuid, found.uuid);
  for (const char* prefix : {"LABEL=", "/dev/disk/by-label/"})
    if (const auto label = behind(prefix)) return !label->empty() && *label == found.label;
  if (const auto mapped = behind("/dev/mapper/")) return *mapped == mapper_name(candidate.name);
  const auto device = behind("/dev/");
  return device && *device == candidate.name;
}

Mount resolve(const TableLine& line, const std::vector<MountCandidate>& candidates) {
  Mount mount{line.mount_point, {}, {}};
  if (line.has("bind") || line.has("rbind")) {
    mount.bound = plain_path(line.source).value_or("");
    return mount;
  }
  const auto found = std::find_if(candidates.begin(), candidates.end(),
                                  [&line](const MountCandidate& candidate) { return names(line.source, candidate); });
  if (found == candidates.end()) return mount;
  mount.file_system = found->name;
  for (std::string option : line.options) {
    if (found->file_system->type != "btrfs" || !option.starts_with("subvol=")) continue;
    option.erase(0, std::string_view("subvol=").size());
    option.erase(0, option.find_first_not_of('/'));
    if (!option.empty()) mount.file_system += "/" + option;
  }
  return mount;
}

}  // namespace

std::optional<std::string> read_mount_table(FileSystemReader& files, const FileSystem& file_system,
                                            std::string_view path) {
  const std::optional<TreeEntry> entry = files.look(file_system, path);
  if (!entry || entry->type != EntryType::file || entry->size > longest_table) return std::nullopt;
  std::string text;
  read_file(files.content(), *entry, [&text](const FileContent& piece) {
    if (piece.bytes.empty())
      text.append(piece.length, '\0');
    else
      text.append(reinterpret_cast<const char*>(piece.bytes.data()), piece.bytes.size());
  });
  return text;
}

std::vector<Mount> find_mounts(const std::vector<MountCandidate>& candidates) {
  for (const MountCandidate& candidate : candidates) {
    const std::optional<std::string> text = candidate.read("etc/fstab");
    if (!text) continue;
    const std::vector<TableLine> lines = parse_table(*text);
    const bool is_root = std::any_of(lines.begin(), lines.end(), [&candidate](const TableLine& line) {
      return line.mount_point == "/" && names(line.source, candidate);
    });
    if (!is_root) continue;
    std::vector<Mount> mounts;
    for (const TableLine& line : lines)
      mounts.push_back(resolve(line, candidates));
    return mounts;
  }
  return {};
}

}  // namespace stillpoint
