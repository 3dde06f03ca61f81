#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks are restored to RBD images of a real cluster: new ones and those that are there, striped, sparse, in use.

rbd-restore.py STILLPOINT
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed  # noqa: E402
from support.companion import Calls  # noqa: E402
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

MIB = 1 << 20
SIZE = 48 * MIB
CEPH = None
ROOT = None

# A guest's image is open: whoever writes to it watches it.
HOLD = """\
import rados, rbd, sys
with rados.Rados(conffile=sys.argv[1], name="client.admin") as cluster:
    with cluster.open_ioctx("rbd") as pool, rbd.Image(pool, sys.argv[2]) as image:
        image.write(b"x", 0)
        print("open", flush=True)
        for _ in sys.stdin:
            try:
                image.write(b"x", 0)
                print("written", flush=True)
            except rbd.ReadOnlyImage:
                print("refused", flush=True)
"""


def noise(name, length):
    """Bytes that do not compress."""
    return hashlib.shake_256(name.encode()).digest(length)


def digest(path):
    """Of a file's content."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Restore(Calls):
    """Into the pools of one cluster, from still points of image files."""

    @classmethod
    def setUpClass(cls):
        cls.images = [ROOT / "vda", ROOT / "vdb"]
        for number, image in enumerate(cls.images):
            with open(image, "wb") as out:
                out.truncate(SIZE)
                for at, name, length in ((0, "boot", 64 << 10), (7 * MIB + 4096, "middle", 3 * MIB), (SIZE - MIB, "end", MIB)):
                    out.seek(at)
                    out.write(noise(f"{name}{number}", length))
        cls.good("init")
        disks = [word for image in cls.images for word in ("--disk-image", f"{image.name}={image}")]
        cls.name = json.loads(cls.good("backup", "web", *disks, "--no-trees", "--json"))["name"]

    @classmethod
    def environment(cls):
        return {**CEPH.environment, "STILLPOINT_REPOSITORY": str(ROOT / "repository"), "LC_ALL": "C.UTF-8"}

    def restore(self, *arguments):
        return json.loads(self.good("restore", self.name, "--json", *arguments))

    def assert_same(self, image, source):
        copy = ROOT / "copy"
        copy.unlink(missing_ok=True)
        CEPH.rbd("export", "--no-progress", image, copy)
        self.assertEqual(digest(copy), digest(source))

    def ls(self, pool="rbd"):
        return CEPH.rbd("ls", pool).split()

    def bytes_of_data(self, image):
        return sum(int(part["length"]) for part in json.loads(CEPH.rbd("diff", "--format", "json", image)))

    def test_new_image(self):
        done = self.restore("--disk", "vda", "--to-rbd", "rbd/one")
        self.assertEqual(done["to"], "rbd:rbd/one")
        self.assert_same("rbd/one", self.images[0])
        # Sparse: objects that lie in holes are not there, and this store knows no holes in objects.
        self.assertLess(self.bytes_of_data("rbd/one"), 11 * MIB)
        self.fails(2, "restore", self.name, "--disk", "vda", "--to-rbd", "rbd/one", says="already")
        self.assertEqual([name for name in self.ls() if "partial" in name], [])

    def test_layout(self):
        self.restore("--disk", "vdb", "--to-rbd", "rbd/laid", "--object-size", "1M", "--stripe-unit", "64K",
                     "--stripe-count", "4", "--image-feature", "layering", "--image-feature", "exclusive-lock",
                     "--data-pool", "data")
        info = json.loads(CEPH.rbd("info", "--format", "json", "rbd/laid"))
        self.assertEqual((info["object_size"], info["stripe_unit"], info["stripe_count"]), (MIB, 64 << 10, 4))
        self.assertEqual(info["data_pool"], "data")
        self.assertEqual(set(info["features"]), {"layering", "exclusive-lock", "striping", "data-pool"})
        self.assert_same("rbd/laid", self.images[1])

    def test_overwrite(self):
        """Of another size and full of others' bytes, with a snapshot that keeps them; striped as it was."""
        old = ROOT / "old"
        for size in (SIZE // 2, SIZE + 5 * MIB):
            old.write_bytes(noise("old", size))
            image = f"rbd/over{size}"
            CEPH.rbd("import", "--no-progress", "--stripe-unit", "65536", "--stripe-count", "3", old, image)
            CEPH.rbd("snap", "create", "--no-progress", f"{image}@before")
            self.restore("--disk", "vda", "--to-rbd", image, "--overwrite")
            self.assert_same(image, self.images[0])
            self.assert_same(f"{image}@before", old)
            # Two of the four sets of objects are holes.
            self.assertLessEqual(self.bytes_of_data(image), SIZE // 2)

    def test_clone_is_overwritten(self):
        """What its parent has is not seen through the holes."""
        old = ROOT / "old-parent"
        old.write_bytes(noise("parent", SIZE))
        CEPH.rbd("import", "--no-progress", old, "rbd/parent")
        CEPH.rbd("snap", "create", "--no-progress", "rbd/parent@s")
        CEPH.rbd("clone", "--rbd-default-clone-format", "2", "rbd/parent@s", "rbd/child")
        self.restore("--disk", "vda", "--to-rbd", "rbd/child", "--overwrite")
        self.assert_same("rbd/child", self.images[0])
        self.assert_same("rbd/parent", old)

    @staticmethod
    def writes(holder):
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        return holder.stdout.readline()

    def test_in_use(self):
        CEPH.rbd("create", "--size", f"{SIZE}B", "rbd/busy")
        with subprocess.Popen(["/usr/bin/python3", "-c", HOLD, CEPH.conf, "busy"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, env=CEPH.environment) as holder:
            try:
                self.assertEqual(holder.stdout.readline(), b"open\n")
                self.fails(10, "restore", self.name, "--disk", "vda", "--to-rbd", "rbd/busy", "--overwrite", says="in use, from 127.0.0.1")
                command = [self.program, "restore", self.name, "--disk", "vda", "--to-rbd", "rbd/busy", "--overwrite", "--force", "--limit", "1M"]
                with subprocess.Popen(command, env=self.environment(), stdout=subprocess.DEVNULL) as restore:
                    wait_until(lambda: self.writes(holder) == b"refused\n", 60, "that nobody else may write")
                    self.assertIsNone(restore.poll())
                    self.assertEqual(restore.wait(120), 0)
                self.assert_same("rbd/busy", self.images[0])
                self.assertEqual(self.writes(holder), b"written\n")
            finally:
                holder.stdin.close()
                holder.wait(30)
        self.restore("--disk", "vda", "--to-rbd", "rbd/busy", "--overwrite")
        self.assert_same("rbd/busy", self.images[0])

    def test_nobody_writes_meanwhile(self):
        """A client that opens the image while it is restored may not write to it."""
        CEPH.rbd("create", "--size", f"{SIZE}B", "rbd/shared")
        command = [self.program, "restore", self.name, "--disk", "vda", "--to-rbd", "rbd/shared", "--overwrite", "--limit", "1M"]
        write = ["/usr/bin/python3", "-c", HOLD, CEPH.conf, "shared"]
        with subprocess.Popen(command, env=self.environment(), stdout=subprocess.DEVNULL) as restore:
            wait_until(lambda: json.loads(CEPH.rbd("lock", "ls", "--format", "json", "rbd/shared")), 60, "the lock", interval=0.02)
            refused = run(write, 60, check=False, input="", env=CEPH.environment)
            self.assertIsNone(restore.poll())
            self.assertEqual((refused.stdout, refused.returncode), ("", 1), refused)
            self.assertIn("ReadOnlyImage", refused.stderr)
            self.assertEqual(restore.wait(120), 0)
        self.assert_same("rbd/shared", self.images[0])
        self.assertEqual(run(write, 60, input="", env=CEPH.environment).stdout, "open\n")

    def test_all_disks(self):
        done = self.restore("--to-rbd", "rbd/tenant", "--name", "web2")
        self.assertEqual([disk["to"] for disk in done["disks"]], ["rbd:rbd/tenant/web2-vda", "rbd:rbd/tenant/web2-vdb"])
        for number, target in enumerate(("vda", "vdb")):
            self.assert_same(f"rbd/tenant/web2-{target}", self.images[number])
        # All or none: the second is there already.
        CEPH.rbd("create", "--size", "1M", "rbd/tenant/web3-vdb")
        self.fails(2, "restore", self.name, "--to-rbd", "rbd/tenant", "--name", "web3", says="web3-vdb already")
        self.assertEqual([name for name in self.ls("rbd/tenant") if "web3" in name], ["web3-vdb"])

    def test_stopped(self):
        """Nothing is left of an image that was not completed."""
        command = [self.program, "restore", self.name, "--to-rbd", "rbd", "--name", "half", "--limit", "1M"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=self.environment(), text=True) as running:
            wait_until(lambda: any(name.startswith("half-vdb") for name in self.ls()), 30, "an image that is being written")
            running.send_signal(signal.SIGTERM)
            _, words = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 11, words)
        self.assertEqual([name for name in self.ls() if name.startswith("half")], [])

    def test_refusals(self):
        one = ("restore", self.name, "--disk", "vda", "--to-rbd")
        self.fails(4, *one, "nothere/x", says="has no pool 'nothere'")
        self.fails(2, *one, "rbd/x@snap", says="no RBD image")
        self.fails(2, "restore", self.name, "--to-rbd", "rbd", "--name", "a@b", says="'rbd/a@b-vda' is no RBD image")
        self.fails(2, *one, "rbd/x", "--object-size", "3M", says="power of two")
        self.fails(2, *one, "rbd/x", "--stripe-unit", "64K", says="--stripe-count")
        self.fails(2, *one, "rbd/x", "--image-feature", "fast-diff", says="needs object-map")
        self.fails(2, *one, "rbd/x", "--image-feature", "magic", says="no feature 'magic'")
        self.fails(2, *one, "rbd/x", "--format", "qcow2", says="RBD images are raw")
        self.fails(2, *one, "rbd/x", "--to", "file", says="one disk goes to one place")
        self.fails(2, "restore", self.name, "--to", "d", "--object-size", "4M", says="none is made")
        self.fails(2, "restore", self.name, "--to-rbd", "a/b/c", says="POOL or POOL/NAMESPACE")
        self.fails(3, *one, "rbd/x", "--ceph-conf", "/nonexistent", says="/nonexistent")


def main():
    global CEPH, ROOT
    Restore.program = sys.argv.pop(1)
    skip_unless_installed()
    unwind_on_signals()
    with scratch_directory() as ROOT, Ceph(ROOT / "ceph", pools=("rbd", "data")) as CEPH:
        CEPH.rbd("namespace", "create", "rbd/tenant")
        program = unittest.main(argv=sys.argv, verbosity=2, exit=False)
        return 0 if program.result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
