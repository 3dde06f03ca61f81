#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees of file systems that the kernel made, and froze: rsync finds nothing to do.

tree.py TREE_DRIVER MAKE_SAMPLE_TREE
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
DRIVER, MAKE_SAMPLE_TREE = (os.path.abspath(word) for word in sys.argv[1:3])


def run(*argv, cwd=None, check=True, timeout=120, text=None):
    done = subprocess.run(argv, cwd=cwd, input=text, capture_output=True, text=True, timeout=timeout, check=False,
                          errors="replace")
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Mount:
    """A loop mount, thawed and gone at the end, in the mount namespace of this test."""

    def __init__(self, image, point, options="loop"):
        point.mkdir(exist_ok=True)
        self.point = point
        run("mount", "-o", options, image, point)

    def __enter__(self):
        return self.point

    def __exit__(self, *_):
        run("fsfreeze", "-u", self.point, check=False)
        run("umount", self.point)


class TreeTest(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="stillpoint-tree-")
        self.addCleanup(self.scratch.cleanup)
        self.dir = pathlib.Path(self.scratch.name)

    def assert_equal(self, source, tree):
        done = run("rsync", "-n", "-aHAX", "--delete", "--checksum", "-i", f"{source}/", f"{tree}/")
        self.assertEqual(done.stdout, "")

    def write_tree(self, image, target, previous=None, check=True):
        argv = [DRIVER, image, self.dir / target]
        if previous:
            argv.append(self.dir / previous)
        return run(*argv, check=check)

    def test_frozen_file_system(self):
        """ext4 frozen by FIFREEZE has a clean journal; the same one unfrozen has not."""
        image = self.dir / "image"
        run("mke2fs", "-q", "-t", "ext4", "-I", "256", image, "96M")
        with Mount(image, self.dir / "mount") as point:
            run(MAKE_SAMPLE_TREE, cwd=point)
            run("sync", "-f", point)
            run("cp", "--sparse=always", image, self.dir / "crash")
            run("fsfreeze", "-f", point)
            try:
                run("cp", "--sparse=always", image, self.dir / "frozen")
            finally:
                run("fsfreeze", "-u", point)

            done = self.write_tree(self.dir / "crash", "crash-tree", check=False)
            self.assertEqual(done.returncode, 7)
            self.assertIn("journal is not replayed", done.stderr)
            self.assertEqual(os.listdir(self.dir / "crash-tree"), [])

            self.assertIn("0 ext4  clean", self.write_tree(self.dir / "frozen", "first").stdout)
            self.assert_equal(point, self.dir / "first/0")

            run("fsfreeze", "-f", point)
            run("cp", "--sparse=always", image, self.dir / "frozen")
            run("fsfreeze", "-u", point)
            done = self.write_tree(self.dir / "frozen", "second", "first")
            self.assertIn("written=0", done.stdout)
            self.assertNotIn("warning", done.stdout)
            self.assert_equal(point, self.dir / "second/0")
            self.assertEqual((self.dir / "first/0/src/dir/large").stat().st_ino,
                             (self.dir / "second/0/src/dir/large").stat().st_ino)

    def test_partitions(self):
        """Every partition by the number that the kernel gives it; what is not read is named."""
        disk = self.dir / "disk"
        run("truncate", "-s", "64M", disk)
        run("sfdisk", "-q", disk, text="label: gpt\nsize=20M\nsize=10M\nsize=10M\n")
        (self.dir / "src").mkdir()
        (self.dir / "src/file").write_text("content\n")
        parts = (("1", 2048, "20M", ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", self.dir / "src"]),
                 ("3", 2048 + 30 * 2048, "10M", ["mke2fs", "-q", "-t", "ext2", "-d", self.dir / "src"]))
        for _, start, size, make in parts:
            part = self.dir / "part"
            run("truncate", "-s", size, part)
            run(*make, part)
            run("dd", f"if={part}", f"of={disk}", "bs=512", f"seek={start}", "conv=notrunc,sparse")
            part.unlink()
        swap = self.dir / "swap"
        run("truncate", "-s", "10M", swap)
        run("mkswap", swap)
        run("dd", f"if={swap}", f"of={disk}", "bs=512", f"seek={2048 + 20 * 2048}", "conv=notrunc,sparse")
        lines = self.write_tree(disk, "trees").stdout.splitlines()
        self.assertEqual([line for line in lines if "=" not in line],
                         ["1 ext4 root clean", "2 swap  clean", "3 ext2  clean"])
        self.assertEqual(sorted(os.listdir(self.dir / "trees")), ["1", "3"])
        for name in ("1", "3"):
            self.assertEqual((self.dir / "trees" / name / "file").read_text(), "content\n")


def can_mount():
    with tempfile.TemporaryDirectory(prefix="stillpoint-tree-") as scratch:
        image = os.path.join(scratch, "image")
        run("mke2fs", "-q", image, "1M")
        os.mkdir(os.path.join(scratch, "mount"))
        mounted = run("mount", "-o", "loop", image, os.path.join(scratch, "mount"), check=False).returncode == 0
        if mounted:
            run("umount", os.path.join(scratch, "mount"))
        return mounted


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        sys.exit(SKIPPED)
    if os.environ.get("STILLPOINT_TREE_NAMESPACE") is None:
        os.environ["STILLPOINT_TREE_NAMESPACE"] = "own"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    if not can_mount():
        print("needs loop mounts", file=sys.stderr)
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
