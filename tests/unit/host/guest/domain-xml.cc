// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/domain-xml.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

using namespace stillpoint;

namespace {

constexpr std::string_view web1 = R"(<domain type='kvm' id='3'>
  <name>web1</name>
  <uuid>471ffad2-aca6-4792-9409-69ddef9e93ef</uuid>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/var/lib/libvirt/images/web1 &amp; more.qcow2' index='1'/>
      <backingStore type='file' index='2'><format type='raw'/><source file='/base.raw'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>0b0b5dce-9a1c-4f0e-8f9e</serial>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/><source dev='/dev/vg0/web1-data' index='3'/><target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source protocol='gluster' name='gv0/web1.qcow2'><host name='gl1' port='24007'/></source>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <auth username='cinder'><secret type='ceph' uuid='a'/></auth>
      <source protocol='rbd' name='volumes/volume-1'/><target dev='vdd' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='volumes/web/volume-2'>
        <host name='10.0.0.1' port='6789'/><host name='fd00::1'/><config file='/etc/ceph/b.conf'/>
        <auth username='nova'><secret type='ceph' usage='nova key'/></auth>
        <encryption format='luks2' engine='librbd'><secret type='passphrase' uuid='b'/></encryption>
      </source>
      <target dev='vdj' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='volumes/volume-3'><snapshot name='golden'/></source><target dev='vdk' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='file' device='floppy'><source file='/f.img'/><target dev='fda' bus='fdc'/></disk>
    <disk type='file' device='disk'><source file='/seed.img'/><target dev='vde' bus='virtio'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/a.img'/><target dev='vdf' bus='virtio'/><transient/></disk>
    <disk type='block' device='disk'><source dev='/dev/sdx'/><target dev='vdg' bus='virtio'/><shareable/></disk>
    <disk type='block' device='lun'><source dev='/dev/sdy'/><target dev='sdb' bus='scsi'/></disk>
    <disk type='vhostuser' device='disk'><source type='unix' path='/s'/><target dev='vdh' bus='virtio'/></disk>
    <disk type='file' device='disk'><target dev='vdi' bus='virtio'/></disk>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-3-web1/org.qemu.guest_agent.0'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/><alias name='channel0'/>
    </channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/><alias name='channel1'/></channel>
    <channel type='pty'><target type='guestfwd' address='10.0.0.1' port='1'/></channel>
  </devices>
  <seclabel type='dynamic' model='apparmor'><label>libvirt-471</label></seclabel>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label><imagelabel>+64055:+108</imagelabel></seclabel>
</domain>)";

std::string reason_for(const DomainDefinition& definition, const std::string& target) {
  const auto found = std::find_if(definition.skipped.begin(), definition.skipped.end(),
                                  [&](const SkippedDisk& disk) { return disk.target == target; });
  return found == definition.skipped.end() ? std::string() : found->reason;
}

}  // namespace

TEST_CASE("all that a domain's disks lie on, also what no still point covers") {
  const std::vector<std::string> paths = disk_paths(web1);
  const auto has = [&](const char* path) { return std::find(paths.begin(), paths.end(), path) != paths.end(); };
  CHECK(has("/var/lib/libvirt/images/web1 & more.qcow2"));
  CHECK(has("/dev/vg0/web1-data"));
  CHECK(has("/seed.img"));
  CHECK(has("/f.img"));
  CHECK_FALSE(has("/s"));
  CHECK(disk_paths("<domain><devices><disk><source file='/a'/><backingStore type='file'><source file='/b'/>"
                   "</backingStore></disk></devices></domain>") == std::vector<std::string>{"/a", "/b"});
  CHECK(disk_paths("<domain><devices><disk><source protocol='rbd' name='p/n/i'><host name='m'/></source></disk>"
                   "<disk><source protocol='rbd' name='p/s'><snapshot name='now'/></source></disk>"
                   "<disk><source protocol='nbd' name='p/x'/></disk></devices></domain>") ==
        std::vector<std::string>{"rbd:p/n/i"});
}

TEST_CASE("disks of a running domain: what is covered, and why the rest is not") {
  const DomainDefinition definition = parse_domain_xml(web1, true);
  REQUIRE(definition.disks.size() == 5);
  CHECK(definition.disks[0].target == "vda");
  CHECK(definition.disks[0].source == "/var/lib/libvirt/images/web1 & more.qcow2");
  CHECK(definition.disks[0].format == "qcow2");
  CHECK(definition.disks[0].serial == "0b0b5dce-9a1c-4f0e-8f9e");
  CHECK(definition.disks[0].dirty_bitmap);
  CHECK(definition.disks[1].source == "/dev/vg0/web1-data");
  CHECK(definition.disks[1].format == "raw");
  CHECK_FALSE(definition.disks[1].dirty_bitmap);
  CHECK(definition.disks[2].source == "gluster:gv0/web1.qcow2");

  CHECK_FALSE(definition.disks[2].rbd);
  CHECK(definition.disks[3].source == "rbd:volumes/volume-1");
  CHECK(definition.disks[3].rbd == DomainRbd{"volumes", "", "volume-1", "", "", "cinder", "a", false});
  CHECK(definition.disks[4].rbd == DomainRbd{"volumes", "web", "volume-2", "/etc/ceph/b.conf",
                                             "10.0.0.1:6789,[fd00::1]", "nova", "nova key", true});

  CHECK(definition.skipped.size() == 9);
  CHECK(reason_for(definition, "vdk").find("a snapshot") == 0);
  CHECK(reason_for(definition, "sda") == "a CD-ROM");
  CHECK(reason_for(definition, "fda") == "a floppy");
  CHECK(reason_for(definition, "vde") == "read-only");
  CHECK(reason_for(definition, "vdf").find("transient") == 0);
  CHECK(reason_for(definition, "vdg").find("shared") == 0);
  CHECK(reason_for(definition, "sdb").find("SCSI") != std::string::npos);
  CHECK(reason_for(definition, "vdh").find("vhostuser") != std::string::npos);
  CHECK(reason_for(definition, "vdi") == "it has no source");
}

TEST_CASE("a domain that does not run: only what can be opened by its path") {
  const DomainDefinition definition = parse_domain_xml(web1, false);
  CHECK(definition.disks.size() == 4);
  CHECK(reason_for(definition, "vdc") == "its source can be read only while the domain runs");
}

TEST_CASE("channels and QEMU's user") {
  const DomainDefinition definition = parse_domain_xml(web1, true);
  REQUIRE(definition.channels.size() == 2);
  CHECK(definition.channels[0].name == "org.qemu.guest_agent.0");
  CHECK(definition.channels[0].type == "unix");
  CHECK(definition.channels[0].alias == "channel0");
  REQUIRE(definition.owner);
  CHECK(definition.owner->user == 64055);
  CHECK(definition.owner->group == 108);
  const auto owner_of = [](const std::string& label) {
    return parse_domain_xml("<domain><seclabel model='dac'><label>" + label + "</label></seclabel></domain>", true)
        .owner;
  };
  CHECK_FALSE(owner_of("libvirt-qemu:kvm"));
  CHECK_FALSE(owner_of("+1"));
  CHECK_FALSE(owner_of("+1:+99999999999"));
  CHECK_FALSE(parse_domain_xml("<domain/>", true).owner);
}

TEST_CASE("what is not libvirt's XML is refused") {
  CHECK_THROWS_AS(static_cast<void>(parse_domain_xml("", true)), Error);
  CHECK_THROWS_AS(static_cast<void>(parse_domain_xml("<domain><devices>", true)), Error);
  CHECK_THROWS_AS(static_cast<void>(parse_domain_xml("<network/>", true)), Error);
  CHECK_THROWS_AS(static_cast<void>(parse_domain_xml(std::string(max_xml_bytes + 1, ' '), true)), Error);
  CHECK_THROWS_AS(static_cast<void>(parse_domain_xml(
                      "<domain><devices><disk><target dev='../etc'/></disk></devices></domain>", true)),
                  Error);
}

TEST_CASE("a checkpoint's disks, and those whose bitmap libvirt cannot measure") {
  constexpr std::string_view xml = R"(<domaincheckpoint><name>c</name><disks>
    <disk name='vda' checkpoint='bitmap' bitmap='c' size='65536'/>
    <disk name='vdb' checkpoint='bitmap' bitmap='c'/>
    <disk name='vdc' checkpoint='no'/>
  </disks></domaincheckpoint>)";
  const auto measured = parse_checkpoint_xml(xml, true);
  REQUIRE(measured.size() == 2);
  CHECK(measured[0].target == "vda");
  CHECK(measured[0].usable);
  CHECK_FALSE(measured[1].usable);
  CHECK(parse_checkpoint_xml(xml, false)[1].usable);
}

TEST_CASE("the socket of a backup job") {
  CHECK(
      parse_backup_socket("<domainbackup mode='pull'><server transport='unix' socket='/s/nbd.sock'/></domainbackup>") ==
      "/s/nbd.sock");
  CHECK(parse_backup_socket("<domainbackup mode='push'/>").empty());
}
