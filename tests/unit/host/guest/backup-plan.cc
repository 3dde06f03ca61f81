// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/backup-plan.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

PlanFacts facts() {
  PlanFacts facts;
  facts.disks = {
      {"vda", "/a", "qcow2", "", 1, true}, {"vdb", "/b", "qcow2", "", 1, true}, {"vdc", "/c", "raw", "", 1, false}};
  facts.new_checkpoint = "stillpoint.0123abcd.new";
  facts.base = "stillpoint.0123abcd.old";
  facts.known = {"vda", "vdb", "vdc"};
  facts.base_disks = {{{"vda", true}, {"vdb", true}}};
  return facts;
}

}  // namespace

TEST_CASE("disks with a good bitmap are incremental, raw ones are not") {
  const BackupPlan plan = decide(facts());
  CHECK(plan.checkpoint == "stillpoint.0123abcd.new");
  REQUIRE(plan.disks.size() == 3);
  CHECK(plan.disks[0].base == "stillpoint.0123abcd.old");
  CHECK(plan.disks[0].full_reason.empty());
  CHECK(plan.disks[0].checkpoint);
  CHECK(plan.disks[2].base.empty());
  CHECK(plan.disks[2].full_reason == "raw disks have no dirty bitmap");
  CHECK_FALSE(plan.disks[2].checkpoint);
}

TEST_CASE("what is wrong with one disk makes that one full, and the reason is given") {
  PlanFacts given = facts();
  SUBCASE("broken bitmap") {
    given.base_disks = {{{"vda", true}, {"vdb", false}}};
  }
  SUBCASE("added after the checkpoint") {
    given.base_disks = {{{"vda", true}}};
  }
  SUBCASE("not in the previous still point") {
    given.known = {"vda"};
  }
  const BackupPlan plan = decide(given);
  CHECK_FALSE(plan.disks[0].base.empty());
  CHECK(plan.disks[1].base.empty());
  CHECK_FALSE(plan.disks[1].full_reason.empty());
  CHECK(plan.disks[1].checkpoint);  // so that the next one is incremental
}

TEST_CASE("without a base all disks are full, and the next can be incremental") {
  PlanFacts given = facts();
  SUBCASE("the first still point") {
    given.base.clear();
  }
  SUBCASE("libvirt lost the checkpoint") {
    given.base_disks.reset();
  }
  const BackupPlan plan = decide(given);
  for (const BackupDisk& disk : plan.disks) {
    CHECK(disk.base.empty());
    CHECK_FALSE(disk.full_reason.empty());
  }
  CHECK(plan.checkpoint == "stillpoint.0123abcd.new");
}

TEST_CASE("only raw disks: no checkpoint is made") {
  PlanFacts given = facts();
  given.disks.erase(given.disks.begin(), given.disks.begin() + 2);
  CHECK(decide(given).checkpoint.empty());
}
