// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/filter-options.hh"

#include <CLI/CLI.hpp>

#include <cstddef>
#include <map>

namespace stillpoint {

void FilterOptions::add_to(CLI::App& verb) {
  verb_ = &verb;
  const auto add = [&verb](Kind& kind, const char* name, const char* summary, const char* type) {
    kind.option = verb.add_option(name, kind.values, summary)->type_name(type)->allow_extra_args(false);
  };
  add(include_, "--include", "files to keep although a later --exclude matches; may be given again", "PATTERN");
  add(exclude_, "--exclude", "files to leave out, by rsync's patterns: first match wins; may be given again",
      "PATTERN");
  add(exclude_from_, "--exclude-from", "the same, a pattern in each line of a file", "FILE");
}

TreeFilter FilterOptions::filter() const {
  TreeFilter filter;
  std::map<const CLI::Option*, std::size_t> used;
  for (const CLI::Option* option : verb_->parse_order()) {
    const auto next = [&](const Kind& kind) -> const std::string& { return kind.values.at(used[option]++); };
    if (option == include_.option)
      filter.include(next(include_));
    else if (option == exclude_.option)
      filter.exclude(next(exclude_));
    else if (option == exclude_from_.option)
      filter.exclude_from(next(exclude_from_));
  }
  return filter;
}

}  // namespace stillpoint
