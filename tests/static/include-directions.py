#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks who may include whom (docs/architecture.md, Who depends on whom), and where each foreign library may appear."""

import pathlib
import re
import sys

# A folder may include headers of these folders; the longest matching name is a file's folder.
MAY_INCLUDE = {
    "common": {"common"},
    "agent": {"agent", "common"},
    "hooks": {"hooks", "common"},
    "host/ceph": {"host/ceph", "common"},
    "host/guest": {"host/guest", "common"},
    "host/capture": {"host/capture", "host/ceph", "common"},
    "host/repository": {"host/repository", "host/ceph", "common"},
    "host/restore": {"host/restore", "host/repository", "host/guest", "host/capture", "host/ceph", "common"},
    "host/commands": {
        "host/commands", "host/restore", "host/repository", "host/guest", "host/capture", "host/ceph", "common"
    },
    "host": {"host/commands", "host/guest", "common"},
}

# A foreign header may be included only by files that the pattern matches.
ONLY_IN = {
    r"libvirt/": r"host/guest/",
    r"libnbd\.h": r"host/(capture|restore)/",
    r"ext2fs/|et/com_err": r"host/capture/",
    r"pqxx/|libpq": r"agent/postgresql",
    r"cppconn/|mysql": r"agent/mysql",
    r"zstd\.h|isa-l": r"host/repository/",
    r"sqlite3\.h": r"hooks/engines/sqlite",
    r"CLI/": r"(agent/main\.cc|host/main\.cc|host/commands/)",
    r"guestfs\.h": r"host/capture/appliance/",
    r"btrfsutil\.h": r"host/capture/kernel/",
    r"seccomp\.h": r"host/capture/",
    r"archive": r"host/restore/tar-writer",
    r"fuse": r"host/restore/fuse",
    r"pugixml": r"host/guest/",
    r"rbd/|rados/": r"host/ceph/module/",
}


def folder_of(path):
    matches = [f for f in MAY_INCLUDE if path.startswith(f + "/")]
    return max(matches, key=len) if matches else None


def faults(root):
    sources = [p for folder in ("common", "agent", "hooks", "host") for p in sorted((root / folder).rglob("*"))]
    for path in sources:
        if path.suffix not in (".hh", ".cc"):
            continue
        name = path.relative_to(root).as_posix()
        folder = folder_of(name)
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{name}:{number}"
            if own := re.match(r'#include "([^"]+)"', line):
                target = folder_of(own[1])
                if own[1] != "config.hh" and target not in MAY_INCLUDE[folder]:
                    yield f"{where}: {folder} may not include {own[1]}"
            if foreign := re.match(r"#include <([^>]+)>", line):
                for header, places in ONLY_IN.items():
                    if re.match(header, foreign[1]) and not re.match(places, name):
                        yield f"{where}: <{foreign[1]}> belongs to {places} only"


def main():
    found = list(faults(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
    print("\n".join(found) if found else "include directions are right")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
