// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/repository-config.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/document.hh"

#include <fmt/format.h>

#include <bit>

namespace stillpoint {

namespace {

constexpr std::uint64_t format_version = 1;
constexpr std::uint64_t config_limit = 1 << 20;
constexpr const char* cipher_name = "aes-256-gcm";

[[noreturn]] void newer_format(const Store& store, std::string_view what) {
  throw ConfigError(fmt::format("the repository {} has a newer format: {}", store.url(), what),
                    "use the stillpoint that wrote it, or a newer one");
}

/// Features lie in the configuration and, when they came later, as empty objects named features/CLASS.NAME.
void check_feature(const Store& store, std::string_view feature_class, std::string_view name, bool for_writing) {
  if (feature_class == "compat") return;
  if (feature_class == "ro_compat" && (!for_writing || name == "leases" || name == "state")) return;
  newer_format(store, fmt::format("it uses '{}'", name));
}

void check_features(Store& store, const Json& config, bool for_writing) {
  const Json& features = json_object(config, "features");
  for (const std::string_view feature_class : {"incompat", "ro_compat", "compat"})
    for (const Json& name : json_array(features, feature_class, 1000))
      check_feature(store, feature_class, name.is_string() ? name.get<std::string>() : "?", for_writing);
  for (const ObjectInfo& object : store.list("features")) {
    const std::string_view name = std::string_view(object.name).substr(sizeof "features");
    const std::size_t dot = name.find('.');
    check_feature(store, name.substr(0, dot), dot == std::string_view::npos ? name : name.substr(dot + 1), for_writing);
  }
}

RepositoryConfig parse_config(Store& store, const std::string& text, bool for_writing) {
  const std::string what = fmt::format("the configuration of {}", store.url());
  const Json json = open_document("config", text, what);
  try {
    if (const std::uint64_t version = json_uint(json, "format"); version != format_version)
      newer_format(store, fmt::format("version {}, and this program knows {}", version, format_version));
    check_features(store, json, for_writing);
    RepositoryConfig config;
    const std::string encryption = json_string(json, "encryption", 64);
    config.encrypted = encryption == cipher_name;
    if (!config.encrypted && encryption != "none") newer_format(store, fmt::format("encryption '{}'", encryption));
    config.id = json_string(json, "id", 64);
    config.chunk_bytes = static_cast<std::uint32_t>(json_uint(json, "chunk_bytes", UINT32_MAX));
    if (!is_id(config.id) || !valid_chunk_bytes(config.chunk_bytes))
      throw Corruption(fmt::format("{} is out of bounds", what));
    return config;
  } catch (const ProtocolError& e) {
    throw Corruption(fmt::format("{}: {}", what, e.what()));
  }
}

}  // namespace

bool valid_chunk_bytes(std::uint64_t chunk_bytes) noexcept {
  return chunk_bytes >= (64 << 10) && chunk_bytes <= (4 << 20) && std::has_single_bit(chunk_bytes);
}

void write_config(Store& store, const RepositoryConfig& config) {
  if (store.exists("config")) throw ConfigError(fmt::format("there is a repository at {} already", store.url()));
  const std::string text = seal_document(
      "config",
      Json{{"format", format_version},
           {"id", config.id},
           {"created", format_time(wall_now())},
           {"chunk_bytes", config.chunk_bytes},
           {"encryption", config.encrypted ? cipher_name : "none"},
           {"features", {{"incompat", Json::array()}, {"ro_compat", Json::array()}, {"compat", Json::array()}}}});
  store.put("config.copy", as_bytes(text));
  store.put("config", as_bytes(text));
}

std::vector<std::string> config_problems(Store& store) {
  std::vector<std::string> problems;
  for (const char* name : {"config", "config.copy"}) {
    try {
      static_cast<void>(parse_config(store, store.get(name, config_limit), false));
    } catch (const Error& e) {
      problems.push_back(fmt::format("{}: {}", name, e.what()));
    }
  }
  return problems;
}

RepositoryConfig read_config(Store& store, bool for_writing) {
  try {
    return parse_config(store, store.get("config", config_limit), for_writing);
  } catch (const NotFound&) {
    if (!store.exists("config.copy"))
      throw ConfigError(fmt::format("{} is not a repository: it has no object 'config'", store.url()),
                        "check the path and that its file system is mounted, or create one with 'stillpoint init'");
    log_warning("the configuration of {} is missing: its copy is used", store.url());
  } catch (const Corruption& e) {
    if (!store.exists("config.copy")) throw;
    log_warning("{}: its copy is used", e.what());
  }
  return parse_config(store, store.get("config.copy", config_limit), for_writing);
}

}  // namespace stillpoint
