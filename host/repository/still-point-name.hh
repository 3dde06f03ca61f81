// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <optional>
#include <string>
#include <string_view>

namespace stillpoint {

/// A domain's name as one part of an object's name: bytes other than [A-Za-z0-9_+@-] and inner dots become %XX. Throws
/// UsageError for a name that no domain has (empty, too long, '/', control characters, not UTF-8).
[[nodiscard]] std::string escape_domain(std::string_view domain);
/// Nothing when it is not what escape_domain() makes.
[[nodiscard]] std::optional<std::string> unescape_domain(std::string_view text);

/// "2026-11-22T08:20:11Z" or with microseconds, nothing else.
[[nodiscard]] std::optional<WallTime> parse_name_time(std::string_view text);

/// What an operator calls a still point by.
struct StillPointName {
  std::string domain;
  std::string time;  ///< empty for the latest
};
/// "web1", "web1@latest", "web1@2026-11-22T08:20:11Z". An '@' that no time and no "latest" follows is the domain's.
[[nodiscard]] StillPointName parse_still_point_name(std::string_view name);

/// "manifests/web1/2026-11-22T08:20:11Z".
[[nodiscard]] std::string manifest_object(std::string_view domain, std::string_view time);

/// What such an object's name says.
struct ManifestObject {
  std::string domain;
  std::string time;
  WallTime instant{};
};
/// Nothing when it is named otherwise.
[[nodiscard]] std::optional<ManifestObject> parse_manifest_object(std::string_view object);

}  // namespace stillpoint
