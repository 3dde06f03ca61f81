// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/retention-options.hh"

#include <CLI/CLI.hpp>

namespace stillpoint {

RetentionPolicy RetentionOptions::policy() const {
  RetentionPolicy policy = counts;
  if (!within.empty()) policy.within = parse_age(within);
  return policy;
}

void add_retention_options(CLI::App& parser, RetentionOptions& options) {
  RetentionPolicy& policy = options.counts;
  parser.add_option("--keep-last", policy.last, "keep the newest N")->type_name("N");
  parser.add_option("--keep-hourly", policy.hourly, "keep the newest of each of the newest N hours that have one")
      ->type_name("N");
  parser.add_option("--keep-daily", policy.daily, "the same for days")->type_name("N");
  parser.add_option("--keep-weekly", policy.weekly, "for weeks, from Monday on")->type_name("N");
  parser.add_option("--keep-monthly", policy.monthly, "for months")->type_name("N");
  parser.add_option("--keep-yearly", policy.yearly, "for years")->type_name("N");
  parser.add_option("--keep-within", options.within, "keep what is younger than this: 12h, 7d, 2w, 6m, 1y")
      ->type_name("AGE");
}

}  // namespace stillpoint
