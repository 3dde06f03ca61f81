// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-filter.hh"

#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace stillpoint {

/// --include, --exclude and --exclude-from of a verb, which count in the order in which they were given.
class FilterOptions {
 public:
  /// `verb` outlives this.
  void add_to(CLI::App& verb);
  /// After the command line was read. Throws UsageError.
  [[nodiscard]] TreeFilter filter() const;

 private:
  struct Kind {
    CLI::Option* option = nullptr;
    std::vector<std::string> values{};
  };
  CLI::App* verb_ = nullptr;
  Kind include_;
  Kind exclude_;
  Kind exclude_from_;
};

}  // namespace stillpoint
