# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compares a captured tree with a file system on a restored disk, read by the kernel.

compare_trees.py TREE IMAGE [OFFSET]   prints one JSON object: entries, bytes, differences (at most twenty)

Mounts the image read-only in a mount namespace of its own (the caller unshares it). Everything that a file has counts:
type, mode, owner, time, size, content, target, device numbers, extended attributes, hard links.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile


def attributes(path):
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def content(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def describe(path):
    """What two equal entries have in common; the link count and inode are compared as groups."""
    status = os.lstat(path)
    facts = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "time": status.st_mtime_ns,
        "attributes": attributes(path),
    }
    if stat.S_ISREG(status.st_mode):
        facts["size"] = status.st_size
        facts["content"] = content(path)
    elif stat.S_ISLNK(status.st_mode):
        facts["target"] = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        facts["device"] = status.st_rdev
    return facts, status


def walk(root):
    """{path below root: facts} as bytes, and the groups of names that share an inode; one file system only."""
    found = {}
    groups = {}
    device = os.lstat(root).st_dev
    pending = [b""]
    while pending:
        below = pending.pop()
        facts, status = describe(os.path.join(root, below))
        found[below] = facts
        if stat.S_ISDIR(status.st_mode):
            if status.st_dev == device:
                pending += [os.path.join(below, name) for name in os.listdir(os.path.join(root, below))]
        else:
            groups.setdefault(status.st_ino, set()).add(below)
    return found, {frozenset(group) for group in groups.values() if len(group) > 1}


def main():
    tree = os.fsencode(sys.argv[1])
    mount = tempfile.mkdtemp(prefix="stillpoint-mount-", dir="/run")
    try:
        # noload: a frozen file system needs no journal, and a read-only image could not have it replayed.
        options = f"ro,noload,loop,offset={sys.argv[3] if len(sys.argv) > 3 else 0}"
        subprocess.run(["mount", "-t", "ext4", "-o", options, sys.argv[2], mount], check=True)
        try:
            disk, disk_groups = walk(os.fsencode(mount))
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        os.rmdir(mount)
    captured, captured_groups = walk(tree)
    show = lambda path: path.decode("utf-8", "backslashreplace")
    differences = [f"only in the tree: {show(path)}" for path in captured.keys() - disk.keys()]
    differences += [f"only on the disk: {show(path)}" for path in disk.keys() - captured.keys()]
    for path in captured.keys() & disk.keys():
        for fact in captured[path].keys() | disk[path].keys():
            if captured[path].get(fact) != disk[path].get(fact):
                differences.append(f"{show(path)}: {fact}: {captured[path].get(fact)} / {disk[path].get(fact)}")
    for group in captured_groups ^ disk_groups:
        differences.append("hard links: " + ", ".join(sorted(map(show, group))[:4]))
    result = {
        "entries": len(disk),
        "bytes": sum(facts.get("size", 0) for facts in disk.values()),
        "differences": sorted(differences)[:20],
    }
    print(json.dumps(result))


main()
