#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Still points as directories and as archives, compared with what the kernel and rsync see of the originals.

mount.py STILLPOINT DUMP-DRIVER MAKE-SAMPLE-TREE
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.documents import reseal  # noqa: E402
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

PROGRAM = DRIVER = MAKE_SAMPLE_TREE = None
MIB = 1 << 20
TIME_LIMIT = 60
SKIPPED = 77
FUSE = os.path.exists("/dev/fuse")


def mounts():
    return [line.split() for line in pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]


class Mounted(unittest.TestCase):
    """One repository: web1 has a partitioned vda (/) and vdb (/srv/data), db has dumps."""

    scratch = image = second = name = dumps = None

    @staticmethod
    def make():
        """All of it, once."""
        cls = Mounted
        cls.source, cls.data = cls.scratch / "source", cls.scratch / "data"
        cls.image, cls.second = cls.scratch / "vda.raw", cls.scratch / "vdb.raw"
        part = cls.scratch / "part.raw"
        for image, size, point in ((part, "64M", cls.source), (cls.second, "16M", cls.data)):
            point.mkdir()
            run(["truncate", "-s", size, image], 10)
            run(["mke2fs", "-q", "-t", "ext4", "-I", "256", image], 60)
            run(["mount", "-o", "loop", image, point], 30)
        run([MAKE_SAMPLE_TREE], 60, cwd=cls.source)
        os.utime(cls.source / "src/file", ns=(1, 1_500_000_000_123_456_789))
        os.utime(cls.source / "src/nothing", ns=(1, -1_500_000_000))
        (cls.source / "crowd").mkdir()
        for number in range(1200):
            (cls.source / f"crowd/a rather long name, so that the directory has many blocks {number}").touch()
        (cls.source / "srv/data").mkdir(parents=True)
        (cls.source / "srv/data/hidden").touch()
        (cls.source / "text").write_text("a sentence of the victim\n" * 40000, encoding="ascii")
        (cls.data / "below").write_text("in the second file system\n", encoding="ascii")
        for point in (cls.source, cls.data):
            run(["mount", "-o", "remount,ro", point], 30)
        run(["truncate", "-s", "72M", cls.image], 10)
        run(["sfdisk", "-q", cls.image], 10, input="2048,131072,L\n")
        run(["dd", f"if={part}", f"of={cls.image}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"], 30)

        cls.call("init")
        cls.name = json.loads(
            cls.call("backup", "web1", "--disk-image", f"vda={cls.image}", "--disk-image", f"vdb={cls.second}", "--no-trees",
                     "--json").stdout)["name"]
        cls.set_mount_points(cls.name, vda1="/", vdb="/srv/data")
        cls.dumps = {"postgresql/15-main/app": cls.scratch / "app", "redis/6379/all": cls.scratch / "redis"}
        cls.dumps["postgresql/15-main/app"].write_bytes(hashlib.shake_256(b"dump").digest(9 * MIB + 13))
        cls.dumps["redis/6379/all"].write_bytes(b"")
        run([DRIVER, cls.scratch / "repository", "db", *(f"{name}={path}" for name, path in cls.dumps.items())], TIME_LIMIT)

    @classmethod
    def set_mount_points(cls, name, **points):
        manifest = cls.scratch / "repository/manifests" / name.replace("@", "/")
        trees = [{"disk": system[:3], "file_system": system, "mount_point": point} for system, point in points.items()]
        template = {"path": "", "entries": 0, "bytes": 0, "files_written": 0, "bytes_written": 0}
        reseal(manifest, lambda content: content.update(trees=[{**template, **tree} for tree in trees]))

    @classmethod
    def call(cls, *arguments, code=0, text=True, **options):
        done = run([PROGRAM, "-r", cls.scratch / "repository", *arguments], TIME_LIMIT, check=False, text=text,
                   env={"PATH": os.environ["PATH"]}, **options)
        if done.returncode != code:
            raise AssertionError(done)
        return done

    def assert_same_tree(self, source, copy, *options):
        done = run(["rsync", "-n", "-aHAX", "--delete", "--checksum", "-i", *options, f"{source}/", f"{copy}/"], TIME_LIMIT,
                   text=False)
        self.assertEqual(done.stdout, b"")


@unittest.skipUnless(FUSE, "there is no /dev/fuse")
class Mount(Mounted):
    def setUp(self):
        self.point = self.scratch / f"mnt-{self.id().rpartition('.')[2]}"
        self.point.mkdir()

    def tearDown(self):
        self.assertEqual([mount for mount in mounts() if mount[1] == str(self.point)], [])
        self.point.rmdir()

    @contextlib.contextmanager
    def mounted(self, *names, end=signal.SIGTERM, options=()):
        """The process, until the block ends; what it said is in self.said then."""
        process = subprocess.Popen(
            [PROGRAM, "-r", self.scratch / "repository", "mount", *names, self.point, *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]},
        )
        try:
            self.ready = process.stdout.readline()
            if self.ready:
                yield process
        finally:
            if process.poll() is None and end is not None:
                process.send_signal(end)
            try:
                self.said = process.communicate(timeout=30)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                self.said = process.communicate()[1]
                run(["umount", "-l", self.point], 30, check=False)
        self.assertTrue(self.ready, self.said)
        self.assertEqual(process.returncode, 0, self.said)

    def test_a_still_point(self):
        with self.mounted(self.name):
            self.assertIn(f"{self.name} is mounted read-only at {self.point}", self.ready)
            kind, options = next((m[2], m[3].split(",")) for m in mounts() if m[1] == str(self.point))
            self.assertEqual(kind, "fuse.stillpoint")
            self.assertLessEqual({"ro", "nosuid", "nodev"}, set(options))
            self.assertNotIn("allow_other", options)
            self.assertEqual(sorted(os.listdir(self.point)),
                             ["disks", "dumps", "file-systems", "files", "still-point.json"])
            shown = self.call("show", self.name, "--json").stdout
            self.assertEqual((self.point / "still-point.json").read_text(encoding="utf-8"), shown)
            self.check_disks()
            self.check_files()
        self.assertNotIn("error", self.said)

    def check_disks(self):
        for name, original in (("vda", self.image), ("vdb", self.second)):
            shown = self.point / f"disks/{name}.img"
            run(["cmp", original, shown], TIME_LIMIT)
            status = shown.stat()
            self.assertEqual(status.st_size, original.stat().st_size)
            self.assertLess(status.st_blocks * 512, status.st_size)
            copy = self.scratch / "copy"
            run(["cp", "--sparse=auto", shown, copy], TIME_LIMIT)
            run(["cmp", original, copy], TIME_LIMIT)
            self.assertLess(copy.stat().st_blocks * 512, copy.stat().st_size)
            copy.unlink()
        with open(self.point / "disks/vda.img", "rb") as image:
            hole = os.lseek(image.fileno(), 0, os.SEEK_HOLE)
            self.assertEqual(set(os.pread(image.fileno(), 4096, hole)), {0})
        with self.assertRaises(OSError) as refused:
            open(self.point / "disks/vda.img", "r+b")
        self.assertEqual(refused.exception.errno, errno.EROFS)

    def check_files(self):
        # The kernel's own view of the same file systems, alone and in each other.
        self.assert_same_tree(self.source, self.point / "file-systems/vda1")
        self.assert_same_tree(self.data, self.point / "file-systems/vdb")
        self.assert_same_tree(self.source, self.point / "files", "--exclude=/srv/data/*")
        self.assert_same_tree(self.data, self.point / "files/srv/data")
        files = self.point / "files/src"
        self.assertEqual((files / "file").stat().st_mtime_ns, 1_500_000_000_123_456_789)
        self.assertEqual((files / "nothing").stat().st_mtime_ns, -1_500_000_000)
        self.assertEqual((files / "file").stat().st_ino, (files / "dir/hard").stat().st_ino)
        self.assertEqual((files / "file").stat().st_nlink, 2)
        self.assertNotEqual((files / "file").stat().st_ino, (self.point / "files/srv/data/below").stat().st_ino)
        self.assertEqual(os.getxattr(files / "file", "user.one"), b"value")
        self.assertEqual(len(os.listdir(self.point / "files/crowd")), 1200)
        device = os.stat(files / "null")
        self.assertTrue(stat.S_ISCHR(device.st_mode))
        with self.assertRaises(PermissionError):  # nodev
            open(files / "null", "rb")
        with self.assertRaises(FileNotFoundError):
            os.stat(files / "none")
        with open(files / "sparse", "rb") as sparse:
            block = os.statvfs(self.source).f_bsize
            self.assertEqual(os.lseek(sparse.fileno(), 0, os.SEEK_DATA), 20971516 // block * block)
            self.assertEqual(os.lseek(sparse.fileno(), 0, os.SEEK_HOLE), 0)

    def test_many_at_once(self):
        """What several processes read at the same time is what one reads."""
        wanted = {
            path.relative_to(self.source): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in [*(self.source / "src/many").iterdir(), self.source / "src/dir/large", self.source / "text"]
        }
        with self.mounted(self.name), concurrent.futures.ThreadPoolExecutor(8) as pool:
            def check(path):
                return hashlib.sha256((self.point / "files" / path).read_bytes()).hexdigest() == wanted[path]

            self.assertTrue(all(pool.map(check, list(wanted) * 2)))
            whole = hashlib.sha256(self.image.read_bytes()).hexdigest()
            images = pool.map(lambda _: hashlib.sha256((self.point / "disks/vda.img").read_bytes()).hexdigest(), range(3))
            self.assertEqual(set(images), {whole})

    def test_all_still_points(self):
        with self.mounted(end=signal.SIGINT):
            self.assertLessEqual({"db", "web1"}, set(os.listdir(self.point)))
            moment = self.name.partition("@")[2]
            self.assertEqual(sorted(os.listdir(self.point / "web1")), [moment, "latest"])
            self.assertEqual(os.readlink(self.point / "web1/latest"), moment)
            self.assertEqual((self.point / "web1/latest/files/text").read_bytes(), (self.source / "text").read_bytes())
            for name, original in self.dumps.items():
                suffix = ".sql" if name.startswith("postgresql") else ""
                shown = self.point / "db/latest/dumps" / (name + suffix)
                self.assertEqual(shown.stat().st_size, original.stat().st_size)
                self.assertEqual(shown.read_bytes(), original.read_bytes())
            with open(self.point / "db/latest/dumps/postgresql/15-main/app.sql", "rb") as dump:
                dump.seek(7 * MIB + 3)  # somewhere
                self.assertEqual(dump.read(4096), self.dumps["postgresql/15-main/app"].read_bytes()[7 * MIB + 3 :][:4096])
            small = self.scratch / "later.raw"
            small.write_bytes(b"later" * 1000)
            self.call("backup", "later", "--no-trees", "--disk-image", f"vda={small}")
            wait_until(lambda: "later" in os.listdir(self.point), 20, "the new still point")
            self.assertEqual((self.point / "later/latest/disks/vda.img").read_bytes(), small.read_bytes())
            self.call("delete", "later@latest")
            wait_until(lambda: "later" not in os.listdir(self.point), 20, "the end of the still point")

    def test_unmounting(self):
        """By fusermount3, which a user of it keeps from doing so; by a signal, which he does not."""
        with self.mounted(self.name, end=None) as process:
            with open(self.point / "files/text", "rb"):
                self.assertNotEqual(run(["umount", self.point], 30, check=False).returncode, 0)
                self.assertIsNone(process.poll())
            run(["fusermount3", "-u", self.point], 30)
            process.wait(30)
        with self.mounted(self.name) as process:
            with subprocess.Popen(["sleep", "60"], cwd=self.point / "files/src") as user:
                held = os.open(self.point / "disks/vda.img", os.O_RDONLY)
                os.read(held, 10)
                process.send_signal(signal.SIGTERM)
                process.wait(30)
                with self.assertRaises(OSError):
                    os.pread(held, 10, 50 * MIB)
                with contextlib.suppress(OSError):  # which close() says too
                    os.close(held)
                user.kill()

    def test_in_the_background(self):
        done = self.call("mount", self.name, self.point, "--background", "--json")
        self.assertEqual(json.loads(done.stdout), {"name": self.name, "directory": str(self.point)})
        try:
            self.assertEqual((self.point / "files/srv/data/below").read_bytes(), (self.data / "below").read_bytes())
        finally:
            run(["fusermount3", "-u", self.point], 30)
        leases = self.scratch / "repository/locks"
        wait_until(lambda: not list(leases.glob("shared-*")), 20, "the end of the program")

    def test_other_users(self):
        """They see nothing, unless they are let in; then the guest's modes hold, and disks are not theirs."""
        def as_nobody(*command):
            return run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command], 30, check=False)

        with self.mounted(self.name):
            self.assertNotEqual(as_nobody("ls", self.point).returncode, 0)
        with self.mounted(self.name, options=["--allow-other"]):
            self.assertEqual(as_nobody("cat", self.point / "files/text").returncode, 0)
            self.assertNotEqual(as_nobody("cat", self.point / "files/src/many/3").returncode, 0)  # mode 0
            self.assertNotEqual(as_nobody("cat", self.point / "disks/vda.img").returncode, 0)

    def test_a_damaged_chunk(self):
        """EIO where the damage is, one line in the log, and everything else can be read."""
        victim = self.scratch / "victim.raw"
        victim.write_bytes(hashlib.shake_256(b"victim").digest(6 * MIB))
        name = json.loads(self.call("backup", "victim", "--no-trees", "--disk-image", f"vda={victim}", "--json").stdout)["name"]
        damaged = hashlib.shake_256(b"victim").digest(6 * MIB)[3 * MIB : 3 * MIB + 64]
        for pack in (self.scratch / "repository/packs").rglob("*"):
            if pack.is_file() and (at := pack.read_bytes().find(damaged)) >= 0:
                pack.chmod(0o644)
                with open(pack, "r+b") as file:
                    file.seek(at)
                    file.write(b"\0" * 64)
        with self.mounted(name):
            with open(self.point / "disks/vda.img", "rb", buffering=0) as image:
                self.assertEqual(image.read(2 * MIB), victim.read_bytes()[: 2 * MIB])
                for _ in range(2):
                    with self.assertRaises(OSError) as failure:
                        os.pread(image.fileno(), 4096, 3 * MIB)
                    self.assertEqual(failure.exception.errno, errno.EIO)
                self.assertEqual(os.pread(image.fileno(), MIB, 5 * MIB), victim.read_bytes()[5 * MIB :])
        lines = [line for line in self.said.splitlines() if "vda of victim" in line]
        self.assertEqual(len(lines), 1, self.said)

    def test_a_hostile_file_system(self):
        """Whatever it holds, the mount answers, and goes on."""
        hostile = self.scratch / "hostile.raw"
        run(["truncate", "-s", "16M", hostile], 10)
        tree = self.scratch / "tree"
        (tree / "a/b").mkdir(parents=True)
        (tree / "a/b/file").write_bytes(b"x" * 100000)
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum", "-d", tree, hostile], 30)
        # A directory that is its own child, and an inode table of noise behind it.
        run(["debugfs", "-w", "-R", "ln a a/b/again", hostile], 30)
        run(["debugfs", "-w", "-R", "sif a/b/file mode 0170777", hostile], 30)
        noisy = self.scratch / "noisy.raw"
        noisy.write_bytes(hostile.read_bytes())
        with open(noisy, "r+b") as file:
            for offset in range(64 * 1024, 4 * MIB, 8192):
                file.seek(offset)
                file.write(hashlib.shake_256(str(offset).encode()).digest(4096))
        self.call("backup", "hostile", "--no-trees", "--disk-image", f"vda={hostile}", "--disk-image", f"vdb={noisy}")
        with self.mounted("hostile@latest"):
            for system in ("vda", "vdb"):
                run(["find", self.point / "file-systems" / system, "-ls"], TIME_LIMIT, check=False)
            run(["cmp", noisy, self.point / "disks/vdb.img"], TIME_LIMIT)
        self.assertIn("hostile@", self.said)

    def test_what_cannot_be_mounted(self):
        for arguments, code, text in (
            (("mount", self.name, self.scratch / "none"), 2, "no directory to mount on"),
            (("mount", "web1"), 2, "no directory to mount on"),
            (("mount", self.name, self.scratch), 2, "is not empty"),
            (("mount", "nobody", self.point), 4, "nobody"),
            (("mount", "nobody", self.point, "--background"), 4, "nobody"),
            (("mount",), 2, "NAME"),
        ):
            with self.subTest(arguments):
                done = self.call(*arguments, code=code)
                self.assertIn(text, done.stderr)
                self.assertEqual(done.stdout, "")


class Archive(Mounted):
    def test_tar(self):
        """What GNU tar makes of it is what the guest had."""
        out = self.scratch / "out"
        for path, source, inside in ((":vda1:/", "", ""), (":/src/dir/", "src/dir", "dir")):
            out.mkdir()
            with subprocess.Popen([PROGRAM, "-r", self.scratch / "repository", "files", "cp", self.name + path, "--to-tar", "-"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as archive:
                run(["tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-C", out], TIME_LIMIT,
                    stdin=archive.stdout)
                said = archive.stderr.read().decode()
                self.assertEqual(archive.wait(30), 0, said)
            self.assertEqual("socket" in said, not inside, said)
            self.assert_same_tree(self.source / source, out / inside, "--exclude=socket")
            if not inside:
                self.assertLess((out / "src/sparse").stat().st_blocks * 512, MIB)
                self.assertEqual((out / "src/file").stat().st_mtime_ns, 1_500_000_000_123_456_789)
            run(["rm", "-rf", out], 30)

    def test_tar_with_patterns(self):
        """It holds what rsync copies with the same patterns; a first name that is left out leaves its hard links whole."""
        rules = ("--include=/dir/medium", "--exclude=/dir/*", "--exclude=/file", "--exclude=sparse", "--exclude=socket")
        wanted, out, target = self.scratch / "wanted", self.scratch / "some", self.scratch / "some.tar"
        out.mkdir()
        run(["rsync", "-aHAX", "--mkpath", *rules, f"{self.source}/src/", f"{wanted}/src/"], TIME_LIMIT)
        self.assertTrue((wanted / "src/many/hard").exists() and not (wanted / "src/file").exists())
        self.call("files", "cp", self.name + ":/src", "--to-tar", target, *rules)
        run(["tar", "-xf", target, "-p", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-C", out], TIME_LIMIT)
        self.assert_same_tree(wanted / "src", out / "src")
        done = self.call("files", "cp", self.name + ":/text", "--to-tar", self.scratch / "none.tar", "--exclude=text", "--json")
        self.assertEqual(json.loads(done.stdout)["entries"], 0)

    def test_tar_file(self):
        target = self.scratch / "one.tar"
        done = self.call("files", "cp", self.name + ":/text", "--to-tar", target, "--json")
        self.assertEqual(json.loads(done.stdout)["entries"], 1)
        self.assertEqual(run(["tar", "-xOf", target, "text"], 30, text=False).stdout, (self.source / "text").read_bytes())
        self.assertIn("exists", self.call("files", "cp", self.name + ":/text", "--to-tar", target, code=2).stderr)
        for wrong in (("a", "--to-tar", "b"), ("--to-tar", "-", "--json")):
            self.call("files", "cp", self.name + ":/text", *wrong, code=2)
        self.assertEqual(self.call("files", "cp", self.name + ":/none", "--to-tar", self.scratch / "x", code=4).stdout, "")
        self.assertFalse((self.scratch / "x").exists())


def can_mount(scratch):
    image, point = scratch / "try.raw", scratch / "try"
    run(["truncate", "-s", "1M", image], 10)
    run(["mke2fs", "-q", image], 30)
    point.mkdir()
    mounted = run(["mount", "-o", "loop", image, point], 30, check=False).returncode == 0
    if mounted:
        run(["umount", point], 30)
    return mounted


def main():
    global PROGRAM, DRIVER, MAKE_SAMPLE_TREE
    PROGRAM, DRIVER, MAKE_SAMPLE_TREE = (os.path.abspath(word) for word in sys.argv[1:4])
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        sys.exit(SKIPPED)
    if os.environ.get("STILLPOINT_MOUNT_NAMESPACE") is None:
        os.environ["STILLPOINT_MOUNT_NAMESPACE"] = "own"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    if not FUSE:
        print("there is no /dev/fuse: only archives are tested", file=sys.stderr)
    unwind_on_signals()
    with scratch_directory() as scratch:
        if not can_mount(scratch):
            print("needs loop mounts", file=sys.stderr)
            sys.exit(SKIPPED)
        Mounted.scratch = scratch
        Mounted.make()
        result = unittest.main(argv=sys.argv[:1] + sys.argv[4:], exit=False, verbosity=2).result
    sys.exit(0 if result.wasSuccessful() else 1)


main()
