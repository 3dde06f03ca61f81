#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit tests of host/ceph on a real cluster.

ceph.py TEST-CEPH
"""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed  # noqa: E402
from support.scratch import scratch_directory, unwind_on_signals  # noqa: E402


def main():
    skip_unless_installed()
    unwind_on_signals()
    with scratch_directory() as scratch, Ceph(scratch / "ceph") as ceph:
        environment = {**os.environ, "CEPH_CONF": str(ceph.conf)}
        return subprocess.run([sys.argv[1], *sys.argv[2:]], timeout=120, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
