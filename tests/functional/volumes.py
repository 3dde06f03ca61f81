#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files on logical volumes that LVM's own tools have laid out over several disks.

volumes.py STILLPOINT
"""

import json
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from support.companion import Calls  # noqa: E402
from support.scratch import SKIPPED, Failure, run  # noqa: E402

MIB = 1 << 20
EXTENT = 4 * MIB


FSTAB = """\
# what the guest mounts
/dev/mapper/vg--0-root / ext4 errors=remount-ro 0 1
/dev/vg-0/var  /var    ext4 defaults 0 2
/var/deep      /srv/with\\040blank none bind
server:/export /net    nfs  defaults
/srv/loop      /srv/loop none bind
/dev/sdz       /var/etc ext4 noauto
"""


class Loop:
    """A loop device over a range of a file."""

    def __init__(self, file, offset=0, size=0):
        argv = ["losetup", "--show", "-f", "-o", str(offset)] + (["--sizelimit", str(size)] if size else []) + [file]
        self.device = run(argv, 30).stdout.strip()

    def __enter__(self):
        return self.device

    def __exit__(self, *_):
        run(["losetup", "-d", self.device], 30)


class Lvm:
    """LVM's tools, without the kernel's device mapper, and blind for every other disk of the machine."""

    def __init__(self, devices, scratch):
        names = ",".join(f'"a|^{device}$|"' for device in devices)
        self.config = f'devices {{ filter=[{names},"r|.*|"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}'
        self.env = {**os.environ, "LVM_SUPPRESS_FD_WARNINGS": "1", "LVM_SYSTEM_DIR": str(scratch)}

    def __call__(self, command, *words):
        argv = [command, "--config", self.config, "--driverloaded", "n", *words]
        return run(argv, 60, env=self.env).stdout

    def create(self, name, size, *words):
        self("lvcreate", "-q", "-an", "-Zn", "-Wn", "-n", name, "-L", size, "vg-0", *words)


def make_source(root, word):
    """Files whose content says where they come from."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/name").write_text(word + "\n", encoding="ascii")
    (root / "etc/link").symlink_to("name")
    (root / "deep/er").mkdir(parents=True)
    # So much that it lies on every segment.
    (root / "deep/er/large").write_bytes(b"".join(f"{word} {i:08}\n".encode() for i in range(10 * MIB // 16)))
    os.link(root / "deep/er/large", root / "deep/again")
    os.setxattr(root / "etc/name", "user.word", word.encode())


class Volumes(Calls):
    program = os.path.abspath(sys.argv[1])

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="stillpoint-volumes-")
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.dir = pathlib.Path(cls.scratch.name)
        # vda: a plain partition and a physical volume; vdb: a physical volume without a partition table.
        cls.vda, cls.vdb = cls.dir / "vda", cls.dir / "vdb"
        run(["truncate", "-s", "80M", cls.vda], 10)
        run(["sfdisk", "-q", cls.vda], 10, input="label: gpt\nsize=8M\nsize=64M\n")
        run(["truncate", "-s", "64M", cls.vdb], 10)
        cls.make_boot()
        second = (1 + 8) * MIB
        with Loop(cls.vda, second, 64 * MIB) as pv0, Loop(cls.vdb) as pv1:
            lvm = Lvm((pv0, pv1), cls.dir)
            lvm("pvcreate", "-q", pv0)
            # No metadata of its own: the other one's speaks for both.
            lvm("pvcreate", "-q", "--metadatacopies", "0", pv1)
            lvm("vgcreate", "-q", "-s", "4M", "vg-0", pv0, pv1)
            lvm.create("root", "12M", pv0)
            lvm.create("var", "16M", pv0)
            lvm("lvextend", "-q", "-L", "+8M", "vg-0/root", pv0)
            lvm("lvextend", "-q", "-L", "+12M", "vg-0/root", pv1)
            lvm.create("wide", "8M", "-i", "2")
            lvm.create("gone", "4M")
            lvm("lvremove", "-q", "-f", "vg-0/gone")
            columns = ["-o", "lv_name,seg_start_pe,seg_pe_ranges", "--noheadings", "--separator", ";"]
            segments = lvm("lvs", "-q", *columns, "vg-0")
            starts = {
                words[0]: int(words[1])
                for words in map(str.split, lvm("pvs", "-q", "-o", "pv_name,pe_start", "--noheadings", "--units", "b",
                                                "--nosuffix").splitlines())
            }
            cls.sources = {}
            for name, size in (("root", 32), ("var", 16)):
                cls.sources[name] = cls.dir / f"source-{name}"
                make_source(cls.sources[name], name)
                if name == "root":
                    (cls.sources[name] / "etc/fstab").write_text(FSTAB, encoding="ascii")
                    (cls.sources[name] / "logs").symlink_to("/var/etc")
                    (cls.sources[name] / "var").mkdir()
                image = cls.dir / name
                run(["truncate", "-s", f"{size}M", image], 10)
                run(["mke2fs", "-q", "-t", "ext4", "-d", cls.sources[name], image], 60)
                data = image.read_bytes()
                pieces = 0
                for line in segments.splitlines():
                    volume, first, ranges = line.strip().split(";")
                    if volume != name:
                        continue
                    device, _, numbers = ranges.partition(":")
                    begin, last = map(int, numbers.split("-"))
                    file, offset = (cls.vda, second) if device == pv0 else (cls.vdb, 0)
                    with open(file, "r+b") as out:
                        out.seek(offset + starts[device] + begin * EXTENT)
                        out.write(data[int(first) * EXTENT:(int(first) + last - begin + 1) * EXTENT])
                    pieces += 1
                assert pieces == (3 if name == "root" else 1), segments
        cls.good("init")
        taken = cls.good("backup", "img", "--json", *cls.images("vda", "vdb"))
        cls.manifest = json.loads(taken)

    @classmethod
    def make_boot(cls):
        part = cls.dir / "boot"
        run(["truncate", "-s", "8M", part], 10)
        run(["mke2fs", "-q", "-t", "ext2", part], 60)
        run(["dd", f"if={part}", f"of={cls.vda}", "bs=1M", "seek=1", "conv=notrunc", "status=none"], 30)

    @classmethod
    def images(cls, *names):
        return [word for name in names for word in ("--disk-image", f"{name}={cls.dir / name}")]

    @classmethod
    def environment(cls):
        # Without an appliance: that has a test of its own.
        return {**os.environ, "STILLPOINT_REPOSITORY": str(cls.dir / "repository"), "LIBGUESTFS_PATH": "/nonexistent"}

    def assert_same(self, source, tree):
        # mke2fs writes whole seconds.
        done = run(["rsync", "-n", "-aHAX", "--delete", "--checksum", "--modify-window=1", "--exclude=lost+found", "-i",
                    f"{source}/", f"{tree}/"], 60)
        self.assertEqual(done.stdout, "")

    def test_listed(self):
        rows = {row["name"]: row for row in json.loads(self.good("files", "ls", "img", "--json"))}
        self.assertEqual({name: row["type"] for name, row in rows.items()},
                         {"vda1": "ext2", "vda2": "LVM2_member", "vdb": "LVM2_member", "vg-0/root": "ext4",
                          "vg-0/var": "ext4", "vg-0/wide": ""})
        self.assertEqual([name for name, row in rows.items() if row["readable"]], ["vda1", "vg-0/root", "vg-0/var"])
        self.assertEqual(rows["vg-0/root"]["bytes"], 32 * MIB)

    def test_read(self):
        self.assertEqual(self.good("files", "cat", "img:vg-0/root:/etc/link"), "root\n")
        self.assertEqual(self.good("files", "cat", "img:vg-0/var:/etc/name"), "var\n")
        self.assertEqual(self.good("files", "find", "img:vg-0/var:/", "--name", "na*"), "/etc/name\n")
        for name, source in self.sources.items():
            copy = self.dir / f"copy-{name}"
            self.good("files", "cp", f"img:vg-0/{name}:/", copy)
            self.assert_same(source, copy)

    def test_trees(self):
        trees = {tree["file_system"]: tree for tree in self.manifest["trees"]}
        self.assertEqual(set(trees), {"vda1", "vg-0/root", "vg-0/var"})
        self.assertIn("no tree of vg-0/wide: it is striped", "\n".join(self.manifest["warnings"]))
        for name, source in self.sources.items():
            self.assert_same(source, self.dir / "repository" / trees[f"vg-0/{name}"]["path"])

    def test_mount_points(self):
        """Paths as the guest has them: by its table, through what is bound and what is a link."""
        self.assertEqual(self.good("files", "cat", "img:/etc/name"), "root\n")
        self.assertEqual(self.good("files", "cat", "img:/var/etc/name"), "var\n")
        self.assertEqual(self.good("files", "cat", "img:/logs/link"), "var\n")
        self.assertEqual(self.good("files", "find", "img:/srv/with blank", "--name", "ag*"), "/srv/with blank/again\n")
        self.fails(4, "files", "ls", "img:/net/x", says="mounts /net from elsewhere")
        self.fails(4, "files", "ls", "img:/srv/loop/x", says="too many directories bound")
        mount_points = {row["name"]: row["mount_point"] for row in json.loads(self.good("files", "ls", "img", "--json"))}
        self.assertEqual((mount_points["vg-0/root"], mount_points["vg-0/var"]), ("/", "/var"))
        trees = {tree["file_system"]: tree["mount_point"] for tree in self.manifest["trees"]}
        self.assertEqual(trees, {"vda1": "", "vg-0/root": "/", "vg-0/var": "/var"})

    def test_obstacles(self):
        self.fails(7, "files", "ls", "img:vg-0/wide:/", says="it is striped")
        self.fails(7, "files", "ls", "img:vda2:/", says="LVM2_member")
        self.assertIn("not everything is listed", self.call("files", "ls", "img").stderr)
        self.fails(7, "files", "ls", "img:vg-0/gone:/", says="without an appliance")

    @unittest.skipUnless(os.path.exists("/dev/fuse"), "there is no /dev/fuse")
    def test_mounted(self):
        """Each for itself, and in each other as the guest has them."""
        point = self.dir / "mount"
        point.mkdir()
        self.good("mount", self.manifest["name"], point, "--background")
        try:
            self.assertEqual(sorted(path.name for path in (point / "file-systems").iterdir()), ["vda1", "vg-0"])
            self.assertEqual(sorted(path.name for path in (point / "file-systems/vg-0").iterdir()), ["root", "var"])
            for name, source in self.sources.items():
                self.assert_same(source, point / "file-systems/vg-0" / name)
            self.assertEqual((point / "files/etc/link").read_text(encoding="ascii"), "root\n")
            self.assert_same(self.sources["var"], point / "files/var")
            # What is striped is not shown.
            self.assertFalse((point / "file-systems/vg-0/wide").exists())
        finally:
            run(["umount", point], 60)

    def test_missing_disk(self):
        """What lies on one disk alone is read without the other."""
        self.good("backup", "half", *self.images("vda"))
        self.assertEqual(self.good("files", "cat", "half:vg-0/var:/etc/name"), "var\n")
        self.fails(7, "files", "cat", "half:vg-0/root:/etc/name", says="physical volume pv1 is missing")

    def test_damaged_metadata(self):
        """A text that its checksum does not vouch for is none."""
        disk = bytearray(self.vda.read_bytes())
        at = disk.find(b"vg-0 {", 9 * MIB)
        while at >= 0:
            disk[at + 1] ^= 1
            at = disk.find(b"vg-0 {", at)
        (self.dir / "bad").write_bytes(disk)
        self.good("backup", "bad", "--disk-image", f"vda={self.dir / 'bad'}")
        self.fails(4, "files", "ls", "bad:vg-0/var:/", says="no file system 'vg-0/var'")


def can_lay_out():
    """Loop devices, and LVM's tools."""
    with tempfile.TemporaryDirectory(prefix="stillpoint-volumes-") as scratch:
        image = pathlib.Path(scratch) / "image"
        image.touch()
        os.truncate(image, MIB)
        try:
            with Loop(image):
                run(["lvm", "version"], 30)
        except Failure as failure:
            print(f"skipped: {str(failure).splitlines()[0]}")
            return False
    return True


if __name__ == "__main__":
    if os.geteuid() != 0 or not can_lay_out():
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1], verbosity=2)
