# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disk images to be backed up: the same on every run of a machine."""

import os
import pathlib
import random
import shutil

from support.scratch import run

BLOCK = 64 << 10
SCATTERED = 328  # blocks: 21.5 MB
CLUSTERED = 344


def _files(limit):
    """Files of /usr in a fixed order, relative to it, of `limit` bytes at most in all."""
    chosen, total = [], 0
    for directory, directories, names in os.walk("/usr"):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if not os.path.islink(path) and os.path.isfile(path):
                size = (os.path.getsize(path) + 4095) // 4096 * 4096
                if total + size > limit:
                    return chosen
                total += size
                chosen.append(os.path.relpath(path, "/usr"))
    return chosen


def _random(file, offset, length, source):
    file.seek(offset)
    while length > 0:
        part = min(length, 1 << 20)
        file.write(source.randbytes(part))
        length -= part


def make(path, size, scratch):
    """A raw image: half of it a file system with programs and documents, a quarter that does not shrink, and a hole."""
    half = min(size // 2, 1 << 30)
    content = scratch / "content"
    names = "\0".join(_files(int(half * 0.85)))
    run(["rsync", "-a", "--from0", "--files-from=-", "/usr/", content], 600, input=names)
    with open(path, "wb") as image:
        image.truncate(half)
    fixed = ["-U", "5711901c-0000-4000-8000-000000000001", "-E", "hash_seed=5711901c-0000-4000-8000-000000000002"]
    run(["mkfs.ext4", "-q", "-F", "-d", content, *fixed, path], 600)
    shutil.rmtree(content)
    with open(path, "r+b") as image:
        image.truncate(size)
        _random(image, half, half // 2, random.Random(1))


def change(source, path, scattered):
    """`source` as it is some writes later: 64 KiB blocks all over what it holds, or one after the other."""
    run(["cp", "--sparse=always", source, path], 600)
    noise = random.Random(2 + scattered)
    with open(path, "r+b") as image:
        for offset in offsets(pathlib.Path(path).stat().st_size, scattered):
            _random(image, offset, BLOCK, noise)


def offsets(size, scattered):
    """Where the changed blocks of an image lie."""
    held = min(size // 2, 1 << 30) // BLOCK
    if scattered:
        return [number * BLOCK for number in sorted(random.Random(3).sample(range(held), min(SCATTERED, held)))]
    return [(held // 3 + number) * BLOCK for number in range(min(CLUSTERED, held // 2))]


def allocated(path):
    """Bytes that a file or everything below a directory takes on disk."""
    path = pathlib.Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(entry.lstat().st_blocks * 512 for entry in files if entry.is_file())
