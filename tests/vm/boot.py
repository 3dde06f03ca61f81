#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain that was booted off the repository: powered off, resumed, moved to images later. Its disks have no system on
them: what is tested is on this side of them."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.companion import Companion, built_companion
from support.guest import DISK
from support.libvirtd import Libvirtd, skip_unless_possible
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until

MIB = 1 << 20
DOMAIN = """<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}<memballoon model='none'/></devices>
</domain>"""


class Boot(unittest.TestCase):
    """In the order of their names."""

    scratch = libvirtd = companion = None

    @classmethod
    def setUpClass(cls):
        cls.disks = {"vda": ("qcow2", cls.scratch / "vda.qcow2"), "vdb": ("raw", cls.scratch / "vdb.raw")}
        content = cls.scratch / "content"
        content.write_bytes(b"".join(f"block {i:010}".encode() for i in range(8 * MIB // 16)))
        run(["qemu-img", "convert", "-O", "qcow2", content, cls.disks["vda"][1]], 60)
        run(["qemu-img", "convert", "-O", "raw", content, cls.disks["vdb"][1]], 60)
        cls.content = content.read_bytes()
        cls.define("web1")
        cls.companion.init()
        cls.name = cls.companion.backup("web1")["name"]
        cls.place = ("--directory", cls.scratch / "boot")

    @classmethod
    def define(cls, name):
        disks = "".join(DISK.format(format=format_, path=path, target=target) for target, (format_, path) in cls.disks.items())
        path = cls.scratch / f"{name}.xml"
        path.write_text(DOMAIN.format(name=name, disks=disks), encoding="ascii")
        cls.libvirtd.virsh("define", path)

    def fails(self, code, *words, says):
        done = self.companion.run(*words, check=False)
        self.assertEqual(done.returncode, code, done)
        self.assertIn(says, done.stderr)

    def state(self):
        return self.libvirtd.virsh("domstate", "web1-boot").stdout.strip()

    def servers(self):
        """nbdkits that serve this repository."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if f"repository={self.companion.repository}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                pass
        return found

    def write(self, target):
        """What the guest would have written: a whole cluster of its overlay, while nobody serves what lies below it."""
        overlay = {"driver": "qcow2", "file": {"driver": "file", "filename": str(self.scratch / f"boot/{target}.qcow2")}, "backing": None}
        run(["qemu-io", "-c", "write -P 0x5a 64k 64k", "json:" + json.dumps(overlay)], 60)

    def power_off(self):
        self.libvirtd.virsh("destroy", "web1-boot")
        wait_until(lambda: not self.servers(), 30, "the disks' servers end")

    def test_1_resumed(self):
        self.fails(4, "boot", "--resume", "web1-boot", *self.place, says="is no domain that 'boot' has made")
        self.companion.run("boot", self.name, *self.place)
        self.fails(2, "boot", "--resume", "web1-boot", *self.place, says="web1-boot runs")
        self.assertEqual(len(self.servers()), 2)
        self.power_off()
        self.write("vda")
        # libvirt alone cannot: nobody serves what the overlays lie on.
        self.assertNotEqual(self.libvirtd.virsh("start", "web1-boot", check=False).returncode, 0)
        done = self.companion.json("boot", "--resume", "web1-boot", *self.place)
        self.assertEqual((done["name"], done["domain"]), (self.name, "web1-boot"))
        self.assertEqual((self.state(), len(self.servers())), ("running", 2))

    def test_2_nothing_is_lost_when_it_fails(self):
        self.power_off()
        overlay = self.scratch / "boot/vdb.qcow2"
        overlay.rename(self.scratch / "away")
        self.assertNotEqual(self.companion.run("boot", "--resume", "web1-boot", *self.place, check=False).returncode, 0)
        wait_until(lambda: not self.servers(), 30, "the disks' servers end")
        (self.scratch / "away").rename(overlay)
        # At once, while the servers of before may still be ending, with the sockets that are needed.
        self.companion.run("boot", "--resume", "web1-boot", *self.place)
        self.libvirtd.virsh("destroy", "web1-boot")
        self.companion.run("boot", "--resume", "web1-boot", *self.place)
        self.assertEqual((self.state(), len(self.servers())), ("running", 2))

    def test_3_committed_later(self):
        images = self.scratch / "images"
        self.fails(2, "boot", "--resume", "web1-boot", *self.place, "--commit", images, says="no directory")
        images.mkdir()
        self.power_off()
        done = self.companion.json("boot", "--resume", "web1-boot", *self.place, "--commit", images)
        self.assertIsNone(done["directory"])
        self.assertEqual(self.state(), "running")
        self.assertFalse((self.scratch / "boot").exists())
        wait_until(lambda: not self.servers(), 30, "the disks' servers end")
        self.libvirtd.virsh("destroy", "web1-boot")
        written = self.content[: 64 << 10] + b"\x5a" * (64 << 10) + self.content[128 << 10 :]
        for target, format_, content in (("vda", "qcow2", written), ("vdb", "raw", self.content)):
            raw = self.scratch / "raw"
            run(["qemu-img", "convert", "-f", format_, "-O", "raw", images / f"web1-boot-{target}.{format_}", raw], 60)
            self.assertEqual(raw.read_bytes(), content, target)
        # It is a domain like any other now.
        self.libvirtd.virsh("start", "web1-boot")
        self.fails(4, "boot", "--resume", "web1-boot", *self.place, says="is no domain that 'boot' has made")
        self.libvirtd.virsh("destroy", "web1-boot")

    def killed_move(self, name, images):
        """A domain whose first disk is being copied when the program that does it is killed."""
        place = ("--directory", self.scratch / name)
        self.companion.run("boot", self.name, "--name", name, *place)
        images.mkdir()
        pauses = self.scratch / f"pauses-{name}"
        pauses.mkdir()
        (pauses / "boot-move").touch()
        words = (name, *place, "--commit", images)
        with subprocess.Popen(
            [self.companion.program, "boot", "--resume", *words, "--repository", self.companion.repository, "--connect", self.companion.uri],
            env={**os.environ, "STILLPOINT_TEST_PAUSE": str(pauses)},
        ) as move:
            wait_until((pauses / "boot-move.reached").exists, 60, "a copy that runs")
            self.fails(10, "boot", "--resume", *words, says=f"somebody else works on {name}")
            self.fails(10, "boot", "--remove", name, *place, says=f"somebody else works on {name}")
            move.kill()
        self.assertTrue((images / f"{name}-vda.qcow2").exists())
        return place

    def is_copied(self, name):
        return "<mirror" in self.libvirtd.virsh("dumpxml", name).stdout

    def test_3_moved_again_when_a_move_was_killed(self):
        images = self.scratch / "killed-images"
        place = self.killed_move("killed", images)
        self.fails(2, "boot", "--resume", "killed", *place, "--commit", self.scratch / "nowhere", says="no directory")
        self.assertTrue(self.is_copied("killed"))
        self.companion.run("boot", "--resume", "killed", *place, "--commit", images)
        self.assertFalse(self.is_copied("killed"))
        self.libvirtd.virsh("destroy", "killed")
        raw = self.scratch / "raw"
        run(["qemu-img", "convert", "-f", "qcow2", images / "killed-vda.qcow2", raw], 60)
        self.assertEqual(raw.read_bytes(), self.content)

    def test_3_removed_when_a_move_was_killed(self):
        images = self.scratch / "gone-images"
        place = self.killed_move("gone", images)
        # The operator's own copy, and what is there but not of the copy that runs, are nothing of ours.
        (images / "gone-vdb.raw").write_text("the operator's", encoding="ascii")
        self.libvirtd.virsh("blockcopy", "gone", "vdb", images / "own.qcow2", "--transient-job")
        self.companion.run("boot", "--remove", "gone", *place)
        self.assertEqual(sorted(path.name for path in images.iterdir()), ["gone-vdb.raw", "own.qcow2"])
        self.assertNotIn("gone", self.libvirtd.virsh("list", "--all", "--name").stdout.split())

    def test_4_in_place_only_where_nobody_else_uses_it(self):
        self.define("other")
        self.fails(2, "restore", self.name, "--in-place", "--overwrite", says="is also other's")
        self.libvirtd.virsh("undefine", "other")
        self.companion.run("restore", self.name, "--in-place", "--overwrite")


def main():
    unwind_on_signals()
    skip_unless_possible()
    with scratch_directory() as scratch, Libvirtd(scratch / "libvirtd") as libvirtd:
        Boot.scratch, Boot.libvirtd = scratch, libvirtd
        Boot.companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
        result = unittest.main(argv=sys.argv, exit=False, failfast=True, verbosity=2).result
        if not result.wasSuccessful():
            print((scratch / "libvirtd/libvirtd.log").read_text(encoding="utf-8")[-4000:])
    sys.exit(0 if result.wasSuccessful() else 1)


main()
