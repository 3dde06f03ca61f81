// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/host-config.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/glib.hh"
#include "host/commands/format.hh"

#include <fmt/format.h>

#include <functional>
#include <map>

namespace stillpoint {

namespace {

using KeyFile = CPtr<GKeyFile, g_key_file_free>;
using Strings = CPtr<gchar*, g_strfreev>;
using Setter = std::function<void(HostConfig&, const std::string& value)>;

constexpr std::size_t max_bytes = 1 << 20;

const std::map<std::string, std::map<std::string, Setter>>& known_groups() {
  static const std::map<std::string, std::map<std::string, Setter>> groups{
      {"repository",
       {{"url", [](HostConfig& c, const std::string& v) { c.repository_url = v; }},
        {"key_file", [](HostConfig& c, const std::string& v) { c.key_file = v; }}}},
      {"libvirt", {{"uri", [](HostConfig& c, const std::string& v) { c.libvirt_uri = v; }}}},
      {"backup",
       {{"scratch_directory",
         [](HostConfig& c, const std::string& v) {
           if (!v.starts_with('/')) throw ConfigError("is not an absolute path");
           c.scratch_directory = v;
         }},
        {"limit",
         [](HostConfig& c, const std::string& v) {
           try {
             c.limit = parse_size(v);
           } catch (const UsageError&) {
             throw ConfigError("is not a number of bytes a second, as 100M is");
           }
         }},
        {"compression",
         [](HostConfig& c, const std::string& v) {
           try {
             c.compression = parse_compression(v);
           } catch (const UsageError&) {
             throw ConfigError(fmt::format("is neither none nor a level of zstd from 1 to {}", max_compression));
           }
         }}}},
  };
  return groups;
}

std::string names_of(const auto& map) {
  std::string names;
  for (const auto& entry : map)
    names += (names.empty() ? "" : ", ") + entry.first;
  return names;
}

void read_group(HostConfig& config, GKeyFile* file, const std::string& path, const std::string& group) {
  const auto known = known_groups().find(group);
  if (known == known_groups().end())
    throw ConfigError(fmt::format("{}: there is no group [{}]", path, group),
                      "the groups are " + names_of(known_groups()));
  GErrorOut error;
  const Strings keys(g_key_file_get_keys(file, group.c_str(), nullptr, error));
  if (!keys) error.raise<ConfigError>(fmt::format("{}: [{}]", path, group));
  for (gchar** key = keys.get(); *key != nullptr; ++key) {
    const auto setter = known->second.find(*key);
    if (setter == known->second.end())
      throw ConfigError(fmt::format("{}: group [{}] has no key '{}'", path, group, *key),
                        "its keys are " + names_of(known->second));
    GErrorOut bad;
    const GCharPtr value(g_key_file_get_string(file, group.c_str(), *key, bad));
    const std::string where = fmt::format("{}: [{}] {}", path, group, *key);
    if (!value) bad.raise<ConfigError>(where);
    if (*value == '\0') throw ConfigError(where + " is empty", "give it a value or leave the line out");
    try {
      setter->second(config, value.get());
    } catch (const ConfigError& e) {
      throw ConfigError(fmt::format("{} '{}' {}", where, value.get(), e.what()));
    }
  }
}

}  // namespace

HostConfig read_host_config(const std::filesystem::path& path, bool required) {
  HostConfig config;
  std::error_code gone;
  if (!required && !std::filesystem::exists(path, gone) && !gone) return config;
  std::string text;
  try {
    text = read_text(path, max_bytes);
  } catch (const Error& e) {
    throw ConfigError(e.what());
  }
  if (text.empty()) return config;
  const KeyFile file(g_key_file_new());
  GErrorOut error;
  if (g_key_file_load_from_data(file.get(), text.data(), text.size(), G_KEY_FILE_NONE, error) == FALSE)
    error.raise<ConfigError>(path.native());
  const Strings groups(g_key_file_get_groups(file.get(), nullptr));
  for (gchar** group = groups.get(); *group != nullptr; ++group)
    read_group(config, file.get(), path.native(), *group);
  return config;
}

}  // namespace stillpoint
