// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/retention.hh"

#include <string>

namespace CLI {
class App;
}

namespace stillpoint {

/// The rules by which still points are kept, as the command line says.
struct RetentionOptions {
  RetentionPolicy counts;
  std::string within;

  /// Throws UsageError.
  [[nodiscard]] RetentionPolicy policy() const;
};

void add_retention_options(CLI::App& parser, RetentionOptions& options);

}  // namespace stillpoint
