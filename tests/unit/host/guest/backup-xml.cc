// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/backup-xml.hh"

#include "host/guest/domain-xml.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

const BackupPlan plan{
    "stillpoint.0123abcd.new",
    {{"vda", "stillpoint.0123abcd.old", "", true}, {"vdb", "", "first", true}, {"vdc", "", "raw", false}}};
const std::vector<std::string> targets{"vda", "vdb", "vdc", "sda"};

}  // namespace

TEST_CASE("the job's description: each disk in its own mode, the others left out by name") {
  CHECK(backup_xml(plan, "/s & t", targets) ==
        "<domainbackup mode=\"pull\"><server transport=\"unix\" socket=\"/s &amp; t/nbd.sock\"/><disks>"
        "<disk name=\"vda\" backup=\"yes\" type=\"file\" backupmode=\"incremental\" "
        "incremental=\"stillpoint.0123abcd.old\" exportname=\"vda\" exportbitmap=\"changed-vda\">"
        "<driver type=\"qcow2\"/><scratch file=\"/s &amp; t/vda.scratch\"/></disk>"
        "<disk name=\"vdb\" backup=\"yes\" type=\"file\" backupmode=\"full\" exportname=\"vdb\">"
        "<driver type=\"qcow2\"/><scratch file=\"/s &amp; t/vdb.scratch\"/></disk>"
        "<disk name=\"vdc\" backup=\"yes\" type=\"file\" backupmode=\"full\" exportname=\"vdc\">"
        "<driver type=\"qcow2\"/><scratch file=\"/s &amp; t/vdc.scratch\"/></disk>"
        "<disk name=\"sda\" backup=\"no\"/></disks></domainbackup>");
  CHECK(parse_backup_socket(backup_xml(plan, "/s & t", targets)) == "/s & t/nbd.sock");
}

TEST_CASE("the checkpoint's description covers what can have a bitmap") {
  CHECK(checkpoint_xml(plan, targets) ==
        "<domaincheckpoint><name>stillpoint.0123abcd.new</name><disks>"
        "<disk name=\"vda\" checkpoint=\"bitmap\"/><disk name=\"vdb\" checkpoint=\"bitmap\"/>"
        "<disk name=\"vdc\" checkpoint=\"no\"/><disk name=\"sda\" checkpoint=\"no\"/></disks></domaincheckpoint>");
}

TEST_CASE("the disk that a complaint names") {
  CHECK(blamed_disk("invalid: missing or broken bitmap 'c' for disk 'vda'", plan) == "vda");
  CHECK(blamed_disk("missing or broken bitmap 'c' for disk 'vdb'", plan).empty());  // it had no base
  CHECK(blamed_disk("something else", plan).empty());
}
