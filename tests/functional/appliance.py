#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""File systems that need an appliance: all of them in one, because one takes long to start.

appliance.py STILLPOINT APPLIANCE_DRIVER MAKE_SAMPLE_TREE [--long]

--long adds what only an appliance can make here: RAID, LVM's mirrors, LUKS2, volumes in what is encrypted; and the verbs
with a journal that is not replayed. Some minutes where there is no KVM.
"""

import json
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from support.appliance import appliance_environment  # noqa: E402
from support.loop import LoopMount  # noqa: E402
from support.scratch import SKIPPED, Failure, run  # noqa: E402

PROGRAM, DRIVER, MAKE_SAMPLE_TREE = (os.path.abspath(word) for word in sys.argv[1:4])
LONG = "--long" in sys.argv[4:]
PASSPHRASE = "still point"
ENVIRONMENT = {}


def copy_tree(source, target, *words):
    run(["rsync", "-aHAX", *words, f"{source}/", f"{target}/"], 120)


def sparse_copy(source, target, *words):
    run(["dd", f"if={source}", f"of={target}", "bs=1M", "conv=notrunc,sparse", "status=none", *words], 60)


class Appliance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Its worker is nobody, and opens nothing of it: blocks come through us.
        cls.scratch = tempfile.TemporaryDirectory(prefix="stillpoint-appliance-test-")
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.dir = pathlib.Path(cls.scratch.name)
        cls.sample = cls.dir / "sample"
        cls.sample.mkdir()
        run([MAKE_SAMPLE_TREE], 60, cwd=cls.sample)

    def assert_same(self, source, tree, *words):
        done = run(["rsync", "-n", "-aHAX", "--delete", "--checksum", "-i", *words, f"{source}/", f"{tree}/"], 120)
        self.assertEqual(done.stdout, "")

    def drive(self, target, *words):
        return run([DRIVER, target, *words], 900, env={**os.environ, **ENVIRONMENT}).stdout.splitlines()

    def image(self, name, size, *make):
        path = self.dir / name
        path.unlink(missing_ok=True)
        run(["truncate", "-s", size, path], 10)
        run([*make, path], 60)
        return path

    def make_xfs(self):
        """Copied while it is mounted: its log must be replayed. XFS has no device numbers as large as ext4's."""
        xfs = self.image("xfs", "320M", "mkfs.xfs", "-q")
        with LoopMount(xfs, self.dir / "on-xfs") as point:
            copy_tree(self.sample, point, "--exclude=wide")
            run(["sync", "-f", point], 60)
            run(["cp", "--sparse=always", xfs, self.dir / "vda"], 60)

    def make_btrfs(self):
        btrfs = self.image("btrfs", "128M", "mkfs.btrfs", "-q")
        with LoopMount(btrfs, self.dir / "on-btrfs") as point:
            run(["btrfs", "subvolume", "create", point / "@home"], 30)
            copy_tree(self.sample, point / "@home")
            run(["btrfs", "subvolume", "create", point / "@home/in side"], 30)
            (point / "@home/in side/file").write_text("inside\n", encoding="ascii")
            run(["btrfs", "subvolume", "snapshot", "-r", point / "@home/in side", point / "kept"], 30)
            (point / "@home/in side/file").write_text("later\n", encoding="ascii")
        return btrfs

    def make_luks(self):
        """What LUKS1 holds is written by QEMU, which needs no device mapper for that."""
        plain = self.image("plain", "64M", "mke2fs", "-q", "-t", "ext4")
        with LoopMount(plain, self.dir / "on-plain") as point:
            copy_tree(self.sample, point)
        secret = ["--object", f"secret,id=key,data={PASSPHRASE}"]
        run(["qemu-img", "convert", *secret, "-O", "luks", "-o", "key-secret=key,iter-time=10", plain,
             self.dir / "luks"], 120)
        return self.dir / "luks"

    def make_ext(self):
        """Not frozen when it was copied: what a crash leaves. No appliance is needed for it."""
        ext = self.image("ext", "96M", "mke2fs", "-q", "-t", "ext4")
        with LoopMount(ext, self.dir / "on-ext") as point:
            copy_tree(self.sample, point)
            run(["sync", "-f", point], 60)
            run(["cp", "--sparse=always", ext, self.dir / "crash"], 60)
        return self.dir / "crash"

    def test_all_kinds(self):
        self.make_xfs()
        disk = self.dir / "vdb"
        run(["truncate", "-s", "210M", disk], 10)
        run(["sfdisk", "-q", disk], 10, input="label: gpt\nsize=128M\nsize=80M\n")
        for image, at in ((self.make_btrfs(), 1), (self.make_luks(), 129)):
            sparse_copy(image, disk, f"seek={at}")
        before = run(["sha256sum", self.dir / "vda", disk], 60).stdout
        lines = self.drive(self.dir / "out", f"vda={self.dir / 'vda'}", f"vdb={disk}", "--key", "wrong", "--key", PASSPHRASE)
        found = [tuple(line.split(" ")[:2]) for line in lines if "=" not in line and not line.startswith("warning")]
        self.assertEqual(found, [("vda", "xfs"), ("vdb1", "btrfs"), ("vdb1/@home", "btrfs"), ("vdb1/@home/in", "side"),
                                 ("vdb1/kept", "btrfs"), ("vdb2", "ext4")])
        for name in ("vda", "vdb1_@home", "vdb2"):
            with self.subTest(name):
                self.assert_same(self.sample / "src", self.dir / "out" / name / "src",
                                 *(["--exclude=wide"] if name == "vda" else []))
        texts = {path: (self.dir / "out" / path / "file").read_text(encoding="ascii")
                 for path in ("vdb1_kept", "vdb1_@home_in side", "vdb1/@home/in side")}
        self.assertEqual(texts, {"vdb1_kept": "inside\n", "vdb1_@home_in side": "later\n",
                                 "vdb1/@home/in side": "later\n"})
        # Journals were replayed elsewhere.
        self.assertEqual(run(["sha256sum", self.dir / "vda", disk], 60).stdout, before)

    def stillpoint(self, *words, check=True):
        environment = {**os.environ, **ENVIRONMENT, "STILLPOINT_REPOSITORY": str(self.dir / "repository")}
        return run([PROGRAM, *words], 900, check=check, env=environment)

    @unittest.skipUnless(LONG, "--long")
    def test_verbs(self):
        """Out of a repository: what is encrypted needs its key, what a crash left is replayed."""
        self.make_xfs()
        (self.dir / "wrong").write_text("wrong\n", encoding="ascii")
        (self.dir / "key").write_text(PASSPHRASE + "\n", encoding="ascii")
        self.stillpoint("init")
        self.stillpoint("backup", "img", "--appliance-trees", "--disk-image", f"vda={self.dir / 'vda'}", "--disk-image",
                        f"vdb={self.make_luks()}", "--disk-image", f"vdc={self.make_ext()}")
        for name, words in (("vda", ["--exclude=wide"]), ("vdc", [])):
            self.stillpoint("files", "cp", f"img:{name}:/", self.dir / f"copy-{name}")
            self.assert_same(self.sample / "src", self.dir / f"copy-{name}/src", *words)
        trees = {tree["file_system"]: tree for tree in json.loads(self.stillpoint("show", "img", "--json").stdout)["trees"]}
        self.assertEqual(set(trees), {"vda", "vdc"})
        self.assert_same(self.sample / "src", self.dir / "repository" / trees["vda"]["path"] / "src", "--exclude=wide")
        key = ("--luks-key-file", self.dir / "key")
        self.assertEqual(self.stillpoint("files", "cat", "img:vdb:/src/file", *key).stdout, "hello\n")
        self.assertIn("vdb          ext4", self.stillpoint("files", "ls", "img", *key).stdout)
        for words in ((), ("--luks-key-file", self.dir / "wrong")):
            done = self.stillpoint("files", "cat", "img:vdb:/src/file", *words, check=False)
            self.assertEqual(done.returncode, 7, done)
            self.assertIn("encrypted", done.stderr)
            self.assertIn("--luks-key-file", done.stderr)

    @unittest.skipUnless(LONG, "--long")
    def test_assembled(self):
        """Made by the appliance's own kernel: RAID1, a mirror of LVM, a volume of LVM in LUKS2."""
        disks = [self.dir / name for name in ("a", "b", "c")]
        for disk in disks:
            run(["truncate", "-s", "256M", disk], 10)
        sample = self.dir / "sample.tar"
        run(["tar", "-C", self.sample, "--xattrs", "--xattrs-include=*", "--acls", "-cf", sample, "."], 60)
        script = f"""
            run
            part-init /dev/sda gpt
            part-init /dev/sdb gpt
            part-add /dev/sda p 2048 200000
            part-add /dev/sdb p 2048 200000
            part-add /dev/sda p 202752 520000
            part-add /dev/sdb p 202752 520000
            md-create 0 "/dev/sda1 /dev/sdb1" level:1
            mkfs ext4 /dev/md/0
            pvcreate /dev/sda2
            pvcreate /dev/sdb2
            vgcreate mirrored "/dev/sda2 /dev/sdb2"
            debug sh "lvcreate -y --type raid1 -m1 -n root -L 96M mirrored"
            mkfs ext4 /dev/mirrored/root
            luks-format /dev/sdc 0
            cryptsetup-open /dev/sdc made
            pvcreate /dev/mapper/made
            vgcreate secret /dev/mapper/made
            lvcreate root secret 96
            mkfs ext4 /dev/secret/root
        """
        for device in ("/dev/md/0", "/dev/mirrored/root", "/dev/secret/root"):
            script += f"""
            mount {device} /
            tar-in {sample} / xattrs:true acls:true
            umount /
            """
        drives = [word for disk in disks for word in ("--format=raw", "-a", str(disk))]
        run(["guestfish", "--keys-from-stdin", *drives], 900, env={**os.environ, **ENVIRONMENT,
            "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"},
            input=script.replace("luks-format /dev/sdc 0", f"luks-format /dev/sdc 0\n{PASSPHRASE}")
            .replace("cryptsetup-open /dev/sdc made", f"cryptsetup-open /dev/sdc made\n{PASSPHRASE}"))
        lines = self.drive(self.dir / "assembled", *(f"vd{disk.name}={disk}" for disk in disks), "--key", PASSPHRASE)
        found = sorted(tuple(line.split(" ")[:2]) for line in lines if "=" not in line and not line.startswith("warning"))
        self.assertEqual(found, [("md0", "ext4"), ("mirrored/root", "ext4"), ("secret/root", "ext4")])
        for name in ("md0", "mirrored_root", "secret_root"):
            self.assert_same(self.sample / "src", self.dir / "assembled" / name / "src",
                             "--exclude=wide", "--exclude=socket")  # which tar has not


def can_mount():
    with tempfile.TemporaryDirectory(prefix="stillpoint-appliance-test-") as scratch:
        path = pathlib.Path(scratch)
        image = path / "image"
        try:
            for size, make in (("320M", ["mkfs.xfs", "-q"]), ("128M", ["mkfs.btrfs", "-q"])):
                image.unlink(missing_ok=True)
                run(["truncate", "-s", size, image], 10)
                run([*make, image], 60)
                with LoopMount(image, path / "mount"):
                    pass
        except Failure as failure:
            print(f"skipped: {str(failure).splitlines()[0]}")
            return False
    return True


if __name__ == "__main__":
    if os.geteuid() != 0 or not can_mount():
        sys.exit(SKIPPED)
    ENVIRONMENT.update(appliance_environment())
    unittest.main(argv=sys.argv[:1], verbosity=2)
