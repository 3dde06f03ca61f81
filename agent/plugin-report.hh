// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/report.hh"

#include <string>
#include <string_view>
#include <vector>

/// What plug-ins say (docs/engines.md), as untrusted as what comes over the channel. Everything throws ProtocolError.
namespace stillpoint::plugin {

/// Bytes of a document.
inline constexpr std::size_t max_document = std::size_t{64} << 10;

/// Bytes of a reason: what is longer is cut, for the host takes no report with more than 4096.
inline constexpr std::size_t max_reason = 1024;

/// The engine's name out of the document of `probe`: one part of a dump's name, and none of the agent's own engines.
[[nodiscard]] std::string parse_probe(std::string_view text);

/// The databases of any later document; none for an empty text. Where `judged` (from the freeze on), each has to have
/// its exactness, with a reason unless it is exact.
[[nodiscard]] std::vector<DatabaseReport> parse_databases(std::string_view text, const std::string& engine,
                                                          bool judged);

/// Takes what `thaw` says into account: a database can only lose its exactness.
void lower(std::vector<DatabaseReport>& databases, const std::vector<DatabaseReport>& after_thaw);

/// As a database that is lost for the reason given: no dump.
void fail(DatabaseReport& database, const std::string& reason);

}  // namespace stillpoint::plugin
