#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains whose disks are RBD images of a real cluster: restored there, and booted on clones of a replica. What boots is
a sector that writes itself behind itself."""

import json
import os
import pathlib
import sys
import unittest
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed
from support.companion import Companion, built_companion
from support.guest import DISK
from support.libvirtd import Libvirtd, skip_unless_possible
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until

MIB = 1 << 20
SIZE = 8 * MIB
DOMAIN = """<domain type='qemu'>
  <name>web1</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}<memballoon model='none'/></devices>
</domain>"""
# xor ax, ax; mov ds, ax; mov es, ax; mov ax, 0x301; mov cx, 2; xor dh, dh; mov bx, 0x7c00; int 0x13; hlt; jmp to the hlt
CODE = bytes.fromhex("31c0 8ed8 8ec0 b80103 b90200 30f6 bb007c cd13 f4 ebfd")
SECTOR = CODE.ljust(510, b"\0") + b"\x55\xaa"


class ReplicaBoot(unittest.TestCase):
    """In the order of their names."""

    scratch = libvirtd = companion = ceph = None

    @classmethod
    def setUpClass(cls):
        cls.content = SECTOR.ljust(SIZE - MIB, b"\0") + os.urandom(MIB)
        for target in ("vda", "vdb"):
            (cls.scratch / "raw").write_bytes(cls.content if target == "vda" else bytes(SIZE))
            run(["qemu-img", "convert", "-O", "qcow2", cls.scratch / "raw", cls.scratch / f"{target}.qcow2"], 60)
        disks = "".join(
            DISK.format(format="qcow2", path=cls.scratch / f"{target}.qcow2", target=target) for target in ("vda", "vdb")
        )
        path = cls.scratch / "web1.xml"
        path.write_text(DOMAIN.format(disks=disks), encoding="ascii")
        cls.libvirtd.virsh("define", path)
        cls.companion.init()
        cls.name = cls.companion.backup("web1")["name"]
        cls.place = ("--directory", cls.scratch / "boot")
        cls.replica = f"rbd:copies@{cls.ceph.conf}"
        cls.companion.run("replicate", cls.name, cls.replica)

    def fails(self, code, *words, says):
        done = self.companion.run(*words, check=False)
        self.assertEqual(done.returncode, code, done)
        self.assertIn(says, done.stderr)

    def export(self, image):
        copy = self.scratch / "copy"
        copy.unlink(missing_ok=True)
        self.ceph.rbd("export", "--no-progress", image, copy)
        return copy.read_bytes()

    def clones(self):
        return sorted(name for name in self.ceph.rbd("ls", "copies").split() if name.startswith("web1-boot"))

    def assert_boots(self, image):
        """The guest has written: it has booted."""
        wait_until(lambda: self.export(image)[512:1024] == SECTOR, 60, "a sector behind the first", interval=0.5)

    def test_1_restored(self):
        self.companion.run("restore", self.name, "--to-rbd", "copies", "--ceph-conf", self.ceph.conf, "--to",
                           self.scratch / "restored", "--name", "web2", "--define")
        self.libvirtd.virsh("start", "web2")
        self.assert_boots("copies/web2-vda")
        self.fails(10, "restore", self.name, "--disk", "vda", "--to-rbd", "copies/web2-vda", "--ceph-conf", self.ceph.conf,
                   "--overwrite", says="in use")
        self.libvirtd.virsh("destroy", "web2")
        self.assertEqual(self.export("copies/web2-vda")[1024:], self.content[1024:])

    def test_2_on_clones(self):
        done = self.companion.json("boot", self.name, *self.place, "--from-replica", self.replica)
        self.assertEqual(done["domain"], "web1-boot")
        clones = self.clones()
        self.assertEqual([name.rpartition("-")[0] for name in clones], ["web1-boot-vda", "web1-boot-vdb"])
        self.assert_boots(f"copies/{clones[0]}")
        # What the guest writes is the clone's alone.
        time = self.name.partition("@")[2]
        self.assertEqual(self.export(f"copies/web1-vda@{time}"), self.content)
        kept = self.companion.json("replicate", self.name, self.replica, "--keep-last", "1", "--verify")
        self.assertTrue(all(disk["verified"] for disk in kept["disks"]))
        self.fails(2, "boot", "--resume", "web1-boot", *self.place, "--commit", self.scratch, says="are clones")

    def test_3_again(self):
        """libvirt alone can: nothing is served."""
        self.libvirtd.virsh("destroy", "web1-boot")
        self.libvirtd.virsh("start", "web1-boot")

    def test_4_removed(self):
        # By another ceph.conf than that, others' images would be: the clones and what names them stay.
        path = self.scratch / "boot/clones"
        clones = json.loads(path.read_text(encoding="utf-8"))
        self.assertEqual((clones["conf"], clones["fsid"]), (str(self.ceph.conf), self.ceph.fsid))
        path.write_text(json.dumps({**clones, "fsid": str(uuid.uuid4())}), encoding="utf-8")
        self.fails(3, "boot", "--remove", "web1-boot", *self.place, says="are in Ceph cluster")
        self.assertEqual(len(self.clones()), 2)
        path.write_text(json.dumps(clones), encoding="utf-8")
        self.companion.run("boot", "--remove", "web1-boot", *self.place)
        self.assertEqual(self.clones(), [])
        self.assertFalse((self.scratch / "boot").exists())
        self.assertNotIn("web1-boot", self.libvirtd.virsh("list", "--all", "--name").stdout)

    def test_5_nothing_is_left(self):
        self.fails(4, "boot", self.name, *self.place, "--from-replica", self.replica, "--replica-name", "nobody", says="nobody-vda")
        missing = self.companion.backup("web1")["name"]
        self.fails(4, "boot", missing, *self.place, "--from-replica", self.replica, says="does not have")
        self.fails(2, "boot", self.name, *self.place, "--from-replica", self.replica, "--name", "a@b", says="is no RBD image")
        # A snapshot that was found to be damaged is nothing to boot.
        key = ("copies/web1-vdb", f"stillpoint.snapshot.{self.name.partition('@')[2]}")
        record = self.ceph.rbd("image-meta", "get", *key).strip()
        self.ceph.rbd("image-meta", "set", *key, json.dumps({**json.loads(record), "damaged": True}))
        self.fails(9, "boot", self.name, *self.place, "--from-replica", self.replica, says="is damaged")
        self.ceph.rbd("image-meta", "set", *key, record)
        # A name that is not libvirt's business to accept: the clones go again.
        self.fails(7, "boot", self.name, *self.place, "--from-replica", self.replica, "--ceph-secret",
                   "00000000-0000-4000-8000-000000000000", says="ecret")
        self.assertEqual(self.clones(), [])
        self.assertFalse((self.scratch / "boot").exists())


def main():
    unwind_on_signals()
    skip_unless_installed()
    skip_unless_possible()
    with scratch_directory() as scratch, Ceph(scratch / "ceph", pools=("copies",)) as ceph, Libvirtd(scratch / "libvirtd") as libvirtd:
        ReplicaBoot.scratch, ReplicaBoot.libvirtd, ReplicaBoot.ceph = scratch, libvirtd, ceph
        ReplicaBoot.companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
        result = unittest.main(argv=sys.argv, exit=False, failfast=True, verbosity=2).result
        if not result.wasSuccessful():
            print((scratch / "libvirtd/libvirtd.log").read_text(encoding="utf-8")[-4000:])
    sys.exit(0 if result.wasSuccessful() else 1)


main()
