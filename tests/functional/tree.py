#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees of file systems that the kernel made, and froze: rsync finds nothing to do.

tree.py TREE_DRIVER MAKE_SAMPLE_TREE
"""

import errno
import hashlib
import os
import pathlib
import random
import shutil
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


def sync_directory(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


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
            run("touch", "-d", "2001-02-03 04:05:06.123456789", point / "src/many/5")
            run("touch", "-h", "-d", "2001-02-03 04:05:06.000000001", point / "src/short")
            run("setfattr", "-n", "security.selinux", "-v", "system_u:object_r:etc_t:s0", point / "src/many/6")
            run("sync", "-f", point)
            run("cp", "--sparse=always", image, self.dir / "crash")
            run("fsfreeze", "-f", point)
            try:
                run("cp", "--sparse=always", image, self.dir / "frozen")
            finally:
                run("fsfreeze", "-u", point)

            self.assertIn("0 ext4  journal", self.write_tree(self.dir / "crash", "crash-tree").stdout)
            self.assert_equal(point, self.dir / "crash-tree/0")

            self.assertIn("0 ext4  clean", self.write_tree(self.dir / "frozen", "first").stdout)
            self.assert_equal(point, self.dir / "first/0")
            self.assertEqual((self.dir / "first/0/src/many/5").stat().st_mtime_ns % 10**9, 123456789)
            self.assertIn("security.selinux", os.listxattr(self.dir / "first/0/src/many/6"))

            run("fsfreeze", "-f", point)
            run("cp", "--sparse=always", image, self.dir / "frozen")
            run("fsfreeze", "-u", point)
            done = self.write_tree(self.dir / "frozen", "second", "first")
            self.assertIn("written=0", done.stdout)
            self.assertNotIn("warning", done.stdout)
            self.assert_equal(point, self.dir / "second/0")
            self.assertEqual((self.dir / "first/0/src/dir/large").stat().st_ino,
                             (self.dir / "second/0/src/dir/large").stat().st_ino)

    def test_journals(self):
        """What a crash leaves reads as what e2fsck makes of it, for each form that a journal has; nothing is written."""
        forms = (("plain", "loop", ["-b", "4096", "-O", "^metadata_csum,^64bit"]), ("checked", "loop", ["-b", "4096", "-O", "metadata_csum,64bit"]),
                 ("content", "loop,data=journal", ["-b", "1024"]))
        for form, options, words in forms:
            with self.subTest(form):
                image, crash, done = (self.dir / f"{form}-{name}" for name in ("image", "crash", "replayed"))
                run("mke2fs", "-q", "-t", "ext4", *words, "-m", "0", "-J", "size=24", image, "96M")
                with Mount(image, self.dir / form, options) as point:
                    run(MAKE_SAMPLE_TREE, cwd=point)
                    run("sync", "-f", point)
                    self.leave_in_journal(point / "src")
                    run("cp", "--sparse=always", image, crash)
                before = run("sha256sum", crash).stdout
                self.assertIn("journal", self.write_tree(crash, f"{form}-tree").stdout)
                self.assertEqual(run("sha256sum", crash).stdout, before)
                run("cp", "--sparse=always", crash, done)
                # 1: errors were corrected.
                self.assertIn(run("e2fsck", "-fy", done, check=False).returncode, (0, 1))
                self.write_tree(done, f"{form}-replayed-tree")
                tree = self.dir / f"{form}-tree/0"
                self.assert_equal(self.dir / f"{form}-replayed-tree/0", tree)
                self.assertEqual((tree / "src/late/file-99").read_text(), "late 99\n" * 99)
                self.assertFalse((tree / "src/many/5").exists())
                # As if there were no journal: something is missing, or it cannot be read.
                run("debugfs", "-w", "-R", "feature -needs_recovery", crash)
                without = self.write_tree(crash, f"{form}-without", check=False)
                self.assertTrue(without.returncode == 7 or not (self.dir / f"{form}-without/0/src/late/file-99").exists())

    @staticmethod
    def leave_in_journal(root):
        """Changes that are committed, and not written to their places; blocks of what is gone belong to something else."""
        for number in range(1, 60):
            (root / f"many/{number}").unlink()
        os.sync()
        (root / "late").mkdir()
        for number in range(100):
            with open(root / f"late/file-{number}", "w", encoding="ascii") as file:
                file.write(f"late {number}\n" * number)
                if number % 10 == 9:
                    file.flush()
                    os.fsync(file.fileno())
        os.rename(root / "dir", root / "late/dir")
        os.setxattr(root / "file", "user.late", b"late")
        sync_directory(root / "late")
        # Directories whose blocks become a file's content: their copies in the journal are revoked.
        space = os.statvfs(root)
        with open(root / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bfree * space.f_frsize - (7 << 20))
        (root / "gone").mkdir()
        for number in range(1000):
            (root / f"gone/{number}").mkdir()
        sync_directory(root / "gone")
        for number in range(1000):
            (root / f"gone/{number}").rmdir()
        sync_directory(root / "gone")
        with open(root / "content", "wb", buffering=0) as file:
            for _ in range(3):
                try:
                    while True:
                        file.write(b"content " * 512)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                # What was freed may be had once that is committed.
                os.fsync(file.fileno())
                sync_directory(root)

    def test_damaged_journal(self):
        """A journal that cannot be what it says is refused, whatever is in it."""
        image = self.dir / "image"
        run("mke2fs", "-q", "-t", "ext4", "-J", "size=8", image, "64M")
        with Mount(image, self.dir / "mount") as point:
            (point / "file").write_text("content\n")
            os.sync()
            (point / "later").write_text("later\n")
            run("sync", "-f", point)
            run("cp", "--sparse=always", image, self.dir / "crash")
        run("debugfs", "-R", f"dump <8> {self.dir / 'log'}", self.dir / "crash")
        log = (self.dir / "log").read_bytes()
        disk = (self.dir / "crash").read_bytes()
        at = disk.find(log[:4096])
        self.assertGreater(at, 0)
        generator = random.Random(1)
        for turn in range(20):
            damaged = bytearray(disk)
            # The journal's own superblock at first, then its descriptors and what follows them.
            span = 96 if turn < 10 else len(log) // 64
            for _ in range(3):
                damaged[at + generator.randrange(12, span)] ^= 1 << generator.randrange(8)
            (self.dir / "damaged").write_bytes(damaged)
            done = self.write_tree(self.dir / "damaged", f"tree-{turn}", check=False)
            self.assertIn(done.returncode, (0, 7), done.stderr)
            self.assertNotIn("signal", done.stderr)
            self.assertNotIn("said nothing", done.stderr)

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


    def as_nobody(self, directory):
        """Programs and a place for somebody who is not root."""
        programs = self.dir / "programs"
        programs.mkdir()
        for program in (DRIVER, pathlib.Path(DRIVER).parents[2] / "host/capture/stillpoint-tree-worker"):
            shutil.copy(program, programs)
        shell = programs / "shell"
        # What rsync takes for ssh: the words after the host are the command.
        shell.write_text("#!/bin/sh\nshift\nexec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \"$*\"\n")
        shell.chmod(0o755)
        self.dir.chmod(0o755)
        directory.mkdir()
        os.chown(directory, 65534, 65534)
        return programs, ["rsync", "-aHAX", "--numeric-ids", "-e", shell, "--rsync-path=rsync --fake-super"]

    def assert_described(self, ours, theirs):
        (files, groups), (their_files, their_groups) = described(ours), described(theirs)
        different = {path for path in files.keys() | their_files.keys() if files.get(path) != their_files.get(path)}
        # rsync loses the default list of a directory that has no other; it reads ours well (below).
        different -= {b"src/dir"}
        self.assertEqual({path: files.get(path) for path in different}, {path: their_files.get(path) for path in different})
        self.assertEqual(groups, their_groups)

    def test_without_root(self):
        """What nobody may set is in attributes, byte for byte those of rsync --fake-super, which brings all of it back."""
        image = self.dir / "image"
        run("mke2fs", "-q", "-t", "ext4", "-I", "256", image, "96M")
        with Mount(image, self.dir / "mount") as point:
            run(MAKE_SAMPLE_TREE, cwd=point)
            run("setfattr", "-n", "user.rsync.%stat", "-v", "100644 0,0 0:0", point / "src/file")
            run("setfacl", "-m", "u:7:rw", point / "src/acl")
            run("setfacl", "-m", "u::rwx,g::r,m::rwx,u:0:x", point / "src/many/20")
            run("setfacl", "-d", "-m", "g:9:rwx", point / "src/dir")
            run("chown", "-R", "65534:65534", point / "src/deep")
            # rsync leaves a time as it is that differs by less than a second from the one wanted.
            run("touch", "-d", "2021-03-04T05:06:07.89", point / "lost+found", point)
        with Mount(image, self.dir / "mount", "loop,ro") as point:
            home = self.dir / "home"
            programs, rsync = self.as_nobody(home)
            environment = ["env", f"STILLPOINT_LIBEXEC={programs}"]
            nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *environment, programs / "tree-driver"]
            done = run(*nobody, image, home / "first")
            self.assertIn("kept in attributes", done.stdout)
            run(*rsync, f"{point}/", f"host:{home}/theirs/")
            self.assert_described(home / "first/0", home / "theirs")
            self.assertEqual(os.getxattr(home / "first/0/src/wide", "user.rsync.%stat"), b"20644 511,300000 0:0")

            back = self.dir / "back"
            run(*rsync, f"host:{home}/first/0/", f"{back}/")
            done = run("rsync", "-n", "-aHAX", "--numeric-ids", "--delete", "--checksum", "-i", f"{point}/", f"{back}/")
            self.assertEqual(done.stdout, "")

            done = run(*nobody, image, home / "second", home / "first")
            self.assertIn("written=0", done.stdout)
            self.assert_described(home / "second/0", home / "theirs")
            for name in ("file", "short", "null", "fifo", "socket", "nothing"):
                self.assertEqual((home / "first/0/src" / name).lstat().st_ino, (home / "second/0/src" / name).lstat().st_ino)

    def test_killed(self):
        """A tree that is interrupted has no name, whenever that happens."""
        source = self.dir / "source"
        for number in range(4000):
            path = source / f"{number % 40}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{number}\n")
        image = self.dir / "image"
        run("mke2fs", "-q", "-t", "ext4", "-d", source, image, "64M")
        for entries in (0, 5, 30):
            target = self.dir / "target"
            for _ in range(5):  # where this test had to wait, the tree may be complete before it is looked at
                shutil.rmtree(target, ignore_errors=True)
                process = subprocess.Popen([DRIVER, image, target], stdout=subprocess.DEVNULL)
                while process.poll() is None:
                    partial = list(target.glob("0.*.partial")) if target.exists() else []
                    if partial and len(os.listdir(partial[0])) >= entries:
                        process.kill()
                        break
                if process.wait(60) == -9:
                    break
            self.assertEqual(process.returncode, -9)
            self.assertEqual([path.name for path in target.iterdir() if not path.name.endswith(".partial")], [])
            self.assertGreaterEqual(len(list(target.rglob("*"))), entries)

    @unittest.skipUnless(shutil.which("lowntfs-3g") and os.path.exists("/dev/fuse"), "needs ntfs-3g")
    def test_target_without_case(self):
        """Names that are one to the target cost no file: the later one gets another name, and a warning."""
        source = self.dir / "source"
        (source / "Dir").mkdir(parents=True)
        (source / "dir").mkdir()
        for name in ("File", "file", "FILE", "Dir/a", "dir/a", "dir/A", "dir/b"):
            (source / name).write_text(f"content of {name}\n")
        os.link(source / "file", source / "hard")
        os.link(source / "file", source / "HARD")
        image = self.dir / "image"
        run("mke2fs", "-q", "-t", "ext4", "-d", source, image, "16M")
        target = self.dir / "ntfs"
        run("truncate", "-s", "32M", target)
        run("mkntfs", "-q", "-F", "-Q", target)
        point = self.dir / "point"
        point.mkdir()
        run("lowntfs-3g", "-o", "ignore_case,permissions", target, point)
        try:
            for number, tree in enumerate(("first", "second")):
                argv = [DRIVER, image, point / tree, *([point / "first"] if number else [])]
                done = run(*argv)
                self.assertEqual(done.stdout.count("takes it for another name"), 5, done.stdout)
                found = sorted(path.read_text() for path in (point / tree / "0").rglob("*") if path.is_file())
                wanted = sorted(path.read_text() for path in source.rglob("*") if path.is_file())
                self.assertEqual(found, wanted)
                self.assertIn("written=7" if not number else "written=0", done.stdout)
        finally:
            run("umount", point)


def described(root):
    """{path: what any tool can see of it}, and the groups of names that share an inode."""
    found, groups = {}, {}
    for directory, directories, names in os.walk(os.fsencode(root)):
        for name in [b".", *directories, *names]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            attributes = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            below = os.path.relpath(path, os.fsencode(root))
            found[below] = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, sorted(attributes.items()))
            if os.path.isfile(path):
                found[below] += (hashlib.sha256(pathlib.Path(os.fsdecode(path)).read_bytes()).hexdigest(),)
                groups.setdefault(status.st_ino, set()).add(below)
    return found, sorted(map(sorted, groups.values()))


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
