#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""File systems that this machine's kernel mounts where the operator trusts the guest; and nothing of it stays.

kernel-mount.py STILLPOINT MAKE_SAMPLE_TREE
"""

import json
import mmap
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from support.loop import LoopMount  # noqa: E402
from support.scratch import SKIPPED, Failure, run, scratch_directory, wait_until  # noqa: E402

PROGRAM, MAKE_SAMPLE_TREE = (os.path.abspath(word) for word in sys.argv[1:3])
TRUST = ("--trust-guest", "kernel-mount")
TIME_LIMIT = 120


def make_image(path, size, *make):
    run(["truncate", "-s", size, path], 10)
    run([*make, path], 60)
    return path


class KernelMount(unittest.TestCase):
    scratch = None

    @classmethod
    def setUpClass(cls):
        cls.sample = cls.scratch / "sample"
        cls.sample.mkdir()
        run([MAKE_SAMPLE_TREE], 60, cwd=cls.sample)
        cls.vda, cls.vdb = cls.scratch / "vda", cls.scratch / "vdb"
        cls.make_xfs()
        cls.make_btrfs()
        cls.call("init")

    @classmethod
    def make_xfs(cls):
        """Copied while it is mounted: its log must be replayed. XFS has no device numbers as large as ext4's."""
        xfs = make_image(cls.scratch / "xfs", "320M", "mkfs.xfs", "-q")
        with LoopMount(xfs, cls.scratch / "on-xfs") as point:
            run(["rsync", "-aHAXS", "--exclude=wide", f"{cls.sample}/", f"{point}/"], TIME_LIMIT)
            # Links lead out of it, and nobody follows them.
            os.symlink("/etc", point / "outside")
            run(["sync", "-f", point], 60)
            run(["cp", "--sparse=always", xfs, cls.vda], 60)
            cls.inode = (point / "src/file").stat().st_ino

    @classmethod
    def make_btrfs(cls):
        btrfs = make_image(cls.scratch / "btrfs", "128M", "mkfs.btrfs", "-q")
        with LoopMount(btrfs, cls.scratch / "on-btrfs") as point:
            run(["btrfs", "subvolume", "create", point / "@home"], 30)
            run(["rsync", "-aHAX", f"{cls.sample}/", f"{point}/@home/"], TIME_LIMIT)
            run(["btrfs", "subvolume", "create", point / "@home/in side"], 30)
            (point / "@home/in side/file").write_text("inside\n", encoding="ascii")
        run(["truncate", "-s", "130M", cls.vdb], 10)
        run(["sfdisk", "-q", cls.vdb], 10, input="label: gpt\nsize=128M\n")
        run(["dd", f"if={btrfs}", f"of={cls.vdb}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"], 60)

    @classmethod
    def command(cls, *words):
        return [PROGRAM, "-r", str(cls.scratch / "repository"), *(str(word) for word in words)]

    @classmethod
    def call(cls, *words, code=0, **how):
        done = run(cls.command(*words), TIME_LIMIT, check=False, **how)
        if done.returncode != code:
            raise AssertionError(done)
        return done

    def back_up(self, name, *words, vda=None, vdb=None, **how):
        return json.loads(self.call("backup", name, "--disk-image", f"vda={vda or self.vda}", "--disk-image",
                                    f"vdb={vdb or self.vdb}", "--json", *words, **how).stdout)

    def assert_same(self, source, tree, *words):
        done = run(["rsync", "-n", "-aHAX", "--delete", "--checksum", "-i", *words, f"{source}/", f"{tree}/"], TIME_LIMIT)
        self.assertEqual(done.stdout, "")

    def loops(self):
        return run(["losetup", "-nO", "NAME,BACK-FILE"], 30).stdout

    def held(self):
        """Loop devices and mounts; other tests of this machine have some too, for as long as they run."""
        return {*self.loops().splitlines(), *pathlib.Path("/proc/mounts").read_text(encoding="ascii").splitlines()}

    def setUp(self):
        self.before = self.held()

    def tearDown(self):
        # Mounts go when the kernel gets to it.
        wait_until(lambda: self.held() <= self.before, 60, "loop devices and mounts are as they were")

    def test_trees(self):
        sums = run(["sha256sum", self.vda, self.vdb], 60).stdout
        plain = self.back_up("plain")
        self.assertEqual(plain["trees"], [])
        self.assertEqual(len([line for line in plain["warnings"] if line.startswith("no tree of ")]), 2, plain["warnings"])
        made = self.back_up("img", *TRUST)
        trees = {tree["file_system"]: self.scratch / "repository" / tree["path"] for tree in made["trees"]}
        self.assertEqual(set(trees), {"vda", "vdb1"}, made)
        self.assertEqual([tree["failure"] for tree in made["trees"]], ["", ""])
        for system in trees:
            self.assertIn(f"tree of {system}: read by this machine's kernel, as --trust-guest asks", made["warnings"])
        self.assert_same(self.sample / "src", trees["vda"] / "src", "--exclude=wide")
        self.assert_same(self.sample / "src", trees["vdb1"] / "@home/src")
        self.assertEqual((trees["vdb1"] / "@home/in side/file").read_text(encoding="ascii"), "inside\n")
        self.assertLess((trees["vda"] / "src/sparse").stat().st_blocks * 512, 1 << 20, "holes stay holes")
        self.assertEqual(run(["sha256sum", self.vda, self.vdb], 60).stdout, sums, "journals were replayed elsewhere")

    def test_files(self):
        name = self.back_up("files", "--no-trees")["name"]
        self.call("files", "cp", f"{name}:vda:/", self.scratch / "copy", *TRUST)
        self.assert_same(self.sample / "src", self.scratch / "copy/src", "--exclude=wide")
        listed = json.loads(self.call("files", "ls", name, "--json", *TRUST).stdout)
        self.assertLessEqual({"vda", "vdb1", "vdb1/@home", "vdb1/@home/in side"}, {row["name"] for row in listed})
        self.assertEqual(self.call("files", "cat", f"{name}:vdb1/@home:/src/file", *TRUST).stdout, "hello\n")
        self.assertEqual(self.call("files", "cat", f"{name}:vdb1/@home/in side:/file", *TRUST).stdout, "inside\n")
        # A guest's link leads into the guest, not to this machine.
        for path in ("/outside/hostname", "/outside/../../etc/hostname", "/none"):
            self.call("files", "cat", f"{name}:vda:{path}", *TRUST, code=4)
        self.call("files", "ls", name, "--trust-guest", "everything", code=2)

    def test_damaged_inode(self):
        """The worker says so, and goes on to the next file system."""
        damaged = self.scratch / "damaged-xfs"
        run(["cp", "--sparse=always", self.scratch / "xfs", damaged], 60)
        number = struct.pack(">Q", self.inode)
        with open(damaged, "r+b") as file, mmap.mmap(file.fileno(), 0) as disk:
            at = disk.find(number) - 152
            while at % 512 != 0 or disk[at:at + 2] != b"IN":
                at = disk.find(number, at + 153) - 152
            disk[at + 40] ^= 0xff  # its time: the checksum is wrong
        made = self.back_up("damaged", *TRUST, vda=damaged, code=12)
        failures = {tree["file_system"]: tree["failure"] for tree in made["trees"]}
        self.assertRegex(failures["vda"], "^cannot look at /src/")
        self.assertEqual(failures["vdb1"], "")

    def test_damaged_content(self):
        """The worker is left in the middle of a walk: what comes after it is an appliance's, or has a reason."""
        damaged = make_image(self.scratch / "damaged-btrfs", "128M", "mkfs.btrfs", "-q")
        with LoopMount(damaged, self.scratch / "on-damaged") as point:
            (point / "file").write_bytes(b"content of it " * 10000)
            # The walk goes on for longer than it takes to find out.
            for i in range(3000):
                (point / f"{i:0100}").write_text("more\n", encoding="ascii")
        with open(damaged, "r+b") as file, mmap.mmap(file.fileno(), 0) as disk:
            disk[disk.find(b"content of it content of it")] ^= 0xff
        reason = "cannot read /file: "
        made = self.back_up("broken", *TRUST, vda=damaged, vdb=self.vda, code=12)
        failures = {tree["file_system"]: tree["failure"] for tree in made["trees"]}
        self.assertRegex(failures["vda"], f"^{reason}")
        self.assertRegex(failures["vdb"], f"^the worker that files are read by has ended: {reason}")
        # There is none, and what was found is not forgotten.
        made = self.back_up("left", *TRUST, "--appliance-trees", vda=damaged, vdb=self.vda, code=12,
                            env={**os.environ, "LIBGUESTFS_PATH": "/nonexistent"})
        left = [line for line in made["warnings"] if ": left to an appliance: " in line]
        self.assertEqual([line.split(":")[0] for line in left], ["tree of vda", "tree of vdb"], made)
        self.assertEqual({tree["file_system"]: tree["failure"] for tree in made["trees"]}, failures)

    def test_host_is_free(self):
        """Nothing of this machine is held, and nothing is mounted that a sandbox reads."""
        ext4 = make_image(self.scratch / "ext4", "64M", "mkfs.ext4", "-q")
        shared, vdc = self.scratch / "shared", self.scratch / "vdc"
        shared.mkdir()
        with LoopMount(ext4, self.scratch / "on-ext4") as point:
            (point / "file").write_text("hello\n", encoding="ascii")
            run(["sync", "-f", point], 60)
            run(["cp", ext4, vdc], 60)
        self.assertIn("needs_recovery", run(["dumpe2fs", "-h", vdc], 30).stdout)
        name = self.back_up("free", "--no-trees", "--disk-image", f"vdc={vdc}")["name"]
        self.assertEqual(self.call("files", "cat", f"{name}:vdc:/file", *TRUST).stdout, "hello\n")
        run(["mount", "--bind", shared, shared], 30)
        try:
            run(["mount", "--make-shared", shared], 30)
            self.check_host_is_free(name, ext4, shared / "on")
        finally:
            run(["umount", shared], 30)

    def check_host_is_free(self, name, image, point):
        with LoopMount(image, point):
            running = subprocess.Popen(self.command("files", "cp", f"{name}:vda:/", "--to-tar", "-", *TRUST),
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            running.stdout.read(65536)
        try:
            self.assertNotIn(str(image), self.loops())
            worker, = self.below(running.pid, "stillpoint-kernel-worker")
            mounts = [line.split() for line in pathlib.Path(f"/proc/{worker}/mounts").read_text().splitlines()]
            self.assertEqual([kind for source, at, kind, *_ in mounts if source.startswith("/dev/loop") and
                              at.startswith("/tmp/stillpoint-")], ["xfs", "btrfs"])
        finally:
            running.kill()
            running.communicate()

    def test_whoever_dies(self):
        """The companion or the worker, killed in the middle: nothing stays (tearDown)."""
        name = self.back_up("killed", "--no-trees")["name"]
        for victim in ("companion", "interrupt", "stillpoint-kernel-worker", "nbdfuse", "nbdkit"):
            with self.subTest(victim), subprocess.Popen(
                self.command("files", "cp", f"{name}:vda:/", "--to-tar", "-", *TRUST), stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL) as running:
                self.assertEqual(len(running.stdout.read(65536)), 65536)
                if victim == "companion":
                    running.kill()
                elif victim == "interrupt":
                    running.send_signal(signal.SIGINT)
                else:
                    for pid in self.below(running.pid, victim):
                        os.kill(pid, signal.SIGKILL)
                running.stdout.read()
                status = running.wait(60)
                self.assertTrue(status == 11 if victim == "interrupt" else status != 0, status)
            self.tearDown()

    def below(self, pid, program):
        """The last of these processes, by their parents."""
        found = []
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            argv = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            deeper = self.below(int(child), program)
            found += deeper or ([int(child)] if os.path.basename(argv[0]).decode() == program else [])
        return found


def can_mount():
    with tempfile.TemporaryDirectory(prefix="stillpoint-kernel-mount-test-") as name:
        scratch = pathlib.Path(name)
        try:
            for size, make in (("320M", ["mkfs.xfs", "-q"]), ("128M", ["mkfs.btrfs", "-q"])):
                with LoopMount(make_image(scratch / make[0], size, *make), scratch / "mount"):
                    pass
        except Failure as failure:
            print(f"skipped: {str(failure).splitlines()[0]}")
            return False
    return os.path.exists("/dev/fuse")


if __name__ == "__main__":
    if os.geteuid() != 0 or not can_mount():
        sys.exit(SKIPPED)
    with scratch_directory() as KernelMount.scratch:
        done = unittest.main(argv=sys.argv[:1] + sys.argv[3:], exit=False, verbosity=2).result
    sys.exit(0 if done.wasSuccessful() else 1)
