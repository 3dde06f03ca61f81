// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/dump-choice.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

Manifest sample() {
  Manifest manifest;
  manifest.name = "web1@2026-11-22T08:20:11Z";
  manifest.dumps = {{"postgresql/15-main/app", {}, 0, ""},
                    {"postgresql/15-main/caf%C3%A9", {}, 0, ""},
                    {"mariadb/default/app", {}, 0, ""},
                    {"mariadb/default/shop", {}, 0, "mariadb-dump: error 1412"}};
  manifest.report.emplace();
  DatabaseReport cafe;
  cafe.dump = "postgresql/15-main/caf%C3%A9";
  cafe.database = "café";
  manifest.report->databases = {cafe};
  return manifest;
}

}  // namespace

TEST_CASE("a dump is named in full, or by its database where that is enough") {
  const Manifest manifest = sample();
  CHECK(choose_dump(manifest, "mariadb/default/app").name == "mariadb/default/app");
  CHECK(choose_dump(manifest, "café").name == "postgresql/15-main/caf%C3%A9");
  CHECK_THROWS_AS(static_cast<void>(choose_dump(manifest, "app")), UsageError);
  CHECK_THROWS_AS(static_cast<void>(choose_dump(manifest, "nothing")), NotFound);
}

TEST_CASE("a failed dump is refused with its reason") {
  const Manifest manifest = sample();
  CHECK_THROWS_WITH_AS(static_cast<void>(choose_dump(manifest, "shop")),
                       "dump mariadb/default/shop failed when web1@2026-11-22T08:20:11Z was taken: "
                       "mariadb-dump: error 1412",
                       NotFound);
}
