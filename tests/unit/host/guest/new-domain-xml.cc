// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/new-domain-xml.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <string>
#include <utility>

using namespace stillpoint;

namespace {

constexpr std::string_view web1 = R"(<domain type='kvm' id='3'>
  <name>web1</name>
  <uuid>471ffad2-aca6-4792-9409-69ddef9e93ef</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <sysinfo type='smbios'><system><entry name='uuid'>471ffad2-aca6</entry><entry name='serial'>s1</entry></system></sysinfo>
  <os firmware='efi'><type machine='q35'>hvm</type><nvram template='/t.fd'>/var/lib/nvram/web1.fd</nvram></os>
  <devices>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <auth username='cinder'><secret type='ceph' uuid='a'/></auth>
      <source protocol='rbd' name='volumes/volume-1' index='2'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/><serial>0b0b</serial><alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='block' device='disk'><source dev='/dev/sdx'/><target dev='vdb' bus='virtio'/><shareable/></disk>
    <disk type='file' device='cdrom'><source file='/a.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet7'/><model type='virtio'/>
    </interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:02'/></interface>
    <hostdev mode='subsystem' type='pci'><source/></hostdev>
    <serial type='file'><source path='/var/log/web1.log'/><target port='0'/></serial>
    <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='serial' port='0'/></console>
    <channel type='unix'>
      <source mode='bind' path='/run/web1.agent'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <graphics type='vnc' port='5903' autoport='no' listen='0.0.0.0'><listen type='address' address='0.0.0.0'/></graphics>
    <memory model='nvdimm'><source><path>/pmem</path></source></memory>
    <memory model='dimm'><target><size>1</size></target></memory>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <vsock><cid auto='no' address='3'/></vsock>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>
</domain>)";

bool has(const NewDefinition& definition, std::string_view text) {
  return definition.xml.find(text) != std::string::npos;
}

NewDefinition changed(bool network) {
  return new_domain_xml(web1, {.name = "web1-boot", .disks = {{"vda", "/b/vda.qcow2", "qcow2"}}, .network = network});
}

}  // namespace

TEST_CASE("a new domain can run beside the one that it is made of") {
  const NewDefinition definition = changed(false);
  CAPTURE(definition.xml);
  CHECK(has(definition, "<name>web1-boot</name>"));
  CHECK(has(definition, "<source file=\"/b/vda.qcow2\" />"));
  CHECK(has(definition, "<driver name=\"qemu\" type=\"qcow2\" cache=\"none\" discard=\"unmap\" />"));
  CHECK(has(definition, "<serial>0b0b</serial>"));
  CHECK(has(definition, "bus=\"0x04\""));
  CHECK(has(definition, "<link state=\"down\" />"));
  CHECK(has(definition, "<source bridge=\"br0\" />"));
  CHECK(has(definition, "name=\"org.qemu.guest_agent.0\""));
  CHECK(has(definition, "autoport=\"yes\""));
  for (const std::string_view gone :
       {"471ffad2", "43dc0cf8", "web1.fd", "52:54",    "vnet7",    "secret",     "rbd",         "/dev/sdx",
        "vdb",      "a.iso",    "hostdev", "web1.log", "/dev/pts", "web1.agent", "connected",   "5903",
        "0.0.0.0",  "/pmem",    "vsock",   "seclabel", "alias",    "id=\"3\"",   "backingStore"}) {
    CAPTURE(gone);
    CHECK(!has(definition, gone));
  }
  CHECK(has(definition, "model=\"dimm\""));
  CHECK(has(definition, "emulator"));
  CHECK(has(definition, "s1"));
  CHECK(definition.left_out.size() == 5);
}

TEST_CASE("the state of a domain is where it was put") {
  const auto with = [](const std::string& name, const std::string& nvram, const std::string& tpm) {
    std::string xml(web1);
    xml.replace(xml.find("<backend type='emulator' version='2.0'/>"), 40,
                "<backend type='emulator' version='2.0'><source type='dir' path='/old'/></backend>");
    return new_domain_xml(xml, {.name = name, .disks = {}, .uuid = "new-uuid", .nvram = nvram, .tpm = tpm});
  };
  const NewDefinition placed = with("web2", "/b/nvram.fd", "/b/tpm");
  CAPTURE(placed.xml);
  CHECK(has(placed, "<nvram template=\"/t.fd\">/b/nvram.fd</nvram>"));
  CHECK(has(placed, "<source type=\"dir\" path=\"/b/tpm\" />"));
  CHECK(has(placed, "<uuid>new-uuid</uuid>"));
  CHECK(!has(with("web2", "", ""), "/old"));
  CHECK(has(with("", "/b/nvram.fd", ""), "/old"));
  CHECK(has(with("", "/b/nvram.fd", ""), "/b/nvram.fd"));
}

TEST_CASE("its network is plugged in when that is asked for") {
  CHECK(!has(changed(true), "state=\"down\""));
}

TEST_CASE("the first one itself keeps what it is") {
  const NewDefinition definition = new_domain_xml(
      web1, {.name = "", .disks = {{"vda", "/b/vda.raw", "raw"}, {"vdb", "/b/vdb.raw", "raw"}}, .network = true});
  CAPTURE(definition.xml);
  for (const std::string_view kept : {"<name>web1</name>", "471ffad2", "43dc0cf8", "web1.fd", "52:54:00:00:00:01",
                                      "a.iso", "hostdev", "/b/vdb.raw"}) {
    CAPTURE(kept);
    CHECK(has(definition, kept));
  }
  for (const std::string_view gone : {"seclabel", "alias", " id=\"3\"", "rbd"}) {
    CAPTURE(gone);
    CHECK(!has(definition, gone));
  }
  CHECK(definition.left_out.empty());
}

TEST_CASE("a disk becomes an image of a cluster") {
  const auto with = [](const NewRbdDisk& rbd, const char* target = "vda") {
    NewDisk disk{target, "", "raw"};
    disk.rbd = rbd;
    std::string xml(web1);
    xml.replace(xml.find("index='2'/>"), 11, "index='2'><host name='m1' port='6789'/><snapshot name='s'/></source>");
    return new_domain_xml(xml, {.name = "web2", .disks = {disk}});
  };
  const NewDefinition same = with({.name = "vms/web2-vda", .conf = "", .user = "", .secret = ""});
  CAPTURE(same.xml);
  for (const std::string_view there :
       {"name=\"vms/web2-vda\"", "<host name=\"m1\" port=\"6789\" />", "username=\"cinder\"", "uuid=\"a\""})
    CHECK(has(same, there));
  for (const std::string_view gone : {"volumes/volume-1", "<snapshot", "<backingStore"})
    CHECK(!has(same, gone));
  // Of another cluster its monitors are others; the key is the same user's.
  const NewDefinition elsewhere = with({.name = "vms/a", .conf = "/c.conf", .user = "cinder", .secret = ""});
  CAPTURE(elsewhere.xml);
  CHECK(has(elsewhere, "<config file=\"/c.conf\" />"));
  CHECK(!has(elsewhere, "m1"));
  CHECK(has(elsewhere, "username=\"cinder\""));
  const NewDefinition other = with({.name = "vms/a", .conf = "/c.conf", .user = "nova", .secret = "u-u"});
  CHECK(has(other, "<auth username=\"nova\">"));
  CHECK(has(other, "<secret type=\"ceph\" uuid=\"u-u\" />"));
  CHECK(!has(with({.name = "vms/a", .conf = "", .user = "nova", .secret = ""}), "cinder"));
  const NewDefinition was_block = with({.name = "vms/b", .conf = "", .user = "", .secret = ""}, "vdb");
  CHECK(has(was_block, "<disk type=\"network\" device=\"disk\">"));
  CHECK(!has(was_block, "/dev/sdx"));
}

TEST_CASE("a disk that is encrypted in its RBD image keeps its key") {
  const auto with = [](NewDisk disk, std::string_view attributes) {
    std::string xml(web1);
    xml.replace(xml.find("index='2'/>"), 11,
                fmt::format("index='2'><encryption {}><secret type='passphrase' uuid='k-e-y'/></encryption></source>",
                            attributes));
    return new_domain_xml(xml, {.name = "web2", .disks = {std::move(disk)}});
  };
  NewDisk in_ceph{"vda", "", "raw"};
  in_ceph.rbd = NewRbdDisk{.name = "vms/a", .conf = "", .user = "", .secret = ""};
  const NewDefinition image = with(in_ceph, "format='luks2' engine='librbd'");
  CHECK(has(image, "<encryption format=\"luks2\" engine=\"librbd\">"));
  CHECK(has(image, "k-e-y"));
  const NewDefinition file = with({"vda", "/b/vda.raw", "raw"}, "format='luks' engine='librbd'");
  CHECK(has(file, "<encryption format=\"luks\">"));
  CHECK(has(file, "k-e-y"));
  const NewDefinition closed = with({"vda", "/b/vda.raw", "raw"}, "format='luks2'");
  CHECK(!has(closed, "k-e-y"));
  CHECK(closed.left_out.size() == image.left_out.size() + 1);
  CHECK_THROWS_AS(static_cast<void>(with({"vda", "/b/vda.qcow2", "qcow2"}, "format='luks'")), UsageError);
}

TEST_CASE("what is no domain's XML is refused") {
  CHECK_THROWS_AS(static_cast<void>(new_domain_xml("<network/>", {})), Error);
  CHECK_THROWS_AS(static_cast<void>(new_domain_xml("<domain><name>", {})), Error);
}
