# SPDX-License-Identifier: LGPL-2.1-or-later
"""A server's file system in an ext4 image: the same on every run of a machine."""

import os
import pathlib
import random

from support.scratch import run

SIZE = 4 << 30
# Below /usr: programs, headers, many small texts.
PROGRAMS = ["bin", "include", "lib/python3", "lib/python3.11", "share/doc", "share/locale", "share/perl"]
WHEN = 1_600_000_000


class Mount:
    """A loop mount for as long as a `with`, in whatever mount namespace the caller has."""

    def __init__(self, image, point, options="ro"):
        self.argv = ["mount", "-o", f"loop,{options}", image, point]
        self.point = pathlib.Path(point)

    def __enter__(self):
        self.point.mkdir(exist_ok=True)
        run(self.argv, 60)
        return self.point

    def __exit__(self, *_):
        run(["umount", self.point], 120)


def _write(path, source, size):
    with open(path, "wb") as file:
        while size > 0:
            part = min(size, 1 << 20)
            file.write(source.randbytes(part))
            size -= part
    os.utime(path, ns=(WHEN * 10**9, WHEN * 10**9 + source.randrange(10**15)))


def _mail(root, source):
    """Many small files: 20 mailboxes of 500 messages of 1 to 100 kB, most of them short, with an owner each."""
    for box in range(20):
        directory = root / f"mail/user{box}/cur"
        directory.mkdir(parents=True)
        for number in range(500):
            message = directory / f"{WHEN + number}.M{number}P{box}.host:2,S"
            _write(message, source, min(int(source.lognormvariate(8.5, 1.2)), 100_000) + 1)
            os.chown(message, 1000 + box, 1000)


def _data(root, source):
    """Few large ones: logs, tables of a database, a small sparse disk, and what is hard-linked and has attributes."""
    for kind, count, size in (("log", 60, 1 << 20), ("data", 20, 12 << 20)):
        (root / kind).mkdir()
        for number in range(count):
            _write(root / kind / f"{kind}.{number}", source, size)
    with open(root / "data/sparse", "wb") as file:
        file.truncate(64 << 20)
        for part in range(64):
            file.seek(part << 20)
            file.write(source.randbytes(65536))
    (root / "cache").mkdir()
    for number in range(1000):
        path = root / f"cache/{number:04}"
        _write(path, source, 3000)
        os.link(path, root / f"cache/link-{number:04}")
        if number % 2:
            os.setxattr(path, "user.mime_type", b"text/plain")


def make(image, point):
    """The image, with some sixty thousand entries and 2 GB in it where /usr has what a developer needs."""
    with open(image, "wb") as file:
        file.truncate(SIZE)
    fixed = ["-U", "5711901c-0000-4000-8000-000000000003", "-E", "hash_seed=5711901c-0000-4000-8000-000000000004"]
    run(["mkfs.ext4", "-q", "-F", *fixed, image], 600)
    with Mount(image, point, "rw") as root:
        (root / "usr").mkdir()
        programs = "\0".join(name for name in PROGRAMS if os.path.isdir(f"/usr/{name}"))
        run(["rsync", "-rlHptgoDX", "--from0", "--files-from=-", "/usr/", root / "usr"], 900, input=programs)
        source = random.Random(4)
        _mail(root, source)
        _data(root, source)


def change(image, point):
    """What a day brings: one file in a hundred is new or other, a few go, one large file grows."""
    source = random.Random(5)
    with Mount(image, point, "rw") as root:
        messages = sorted((root / "mail").rglob("*S"))
        for path in source.sample(messages, len(messages) // 50):
            path.unlink()
        for box in range(20):
            for number in range(10):
                _write(root / f"mail/user{box}/cur/new{number}", source, 5000)
        programs = sorted(path for path in (root / "usr").rglob("*") if path.is_file() and not path.is_symlink())
        for path in source.sample(programs, len(programs) // 100):
            _write(path, source, max(path.stat().st_size, 1))
        for number in range(3):
            with open(root / f"log/log.{number}", "ab") as file:
                file.write(source.randbytes(100_000))


def counted(root):
    """How many entries a tree has, and bytes in its regular files."""
    entries, size = 0, 0
    for directory, directories, names in os.walk(root):
        entries += 1 + len(names) + sum(os.path.islink(os.path.join(directory, name)) for name in directories)
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                size += os.lstat(path).st_size
    return entries, size
