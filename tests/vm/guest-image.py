#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes what the other tests of this suite boot, so that their time limits need not pay for it: the agent's package and
the guest image, when the cache does not have them."""

import concurrent.futures
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.baseimage import base_image
from support.image import build_packages, guest_image
from support.libvirtd import skip_unless_possible
from support.scratch import Failure, run, unwind_on_signals


def main():
    unwind_on_signals()
    skip_unless_possible()
    # The system below it is downloaded and unpacked while the agent is compiled.
    with concurrent.futures.ThreadPoolExecutor() as beside:
        system = beside.submit(base_image)
        package = build_packages("--agent-only")["stillpoint-agent"]
        system.result()
    image = guest_image(package)
    for path in (image.vda, image.vdb):
        run(["qemu-img", "check", "-q", path], 120)
    for path in (image.vdc, image.kernel, image.initrd):
        if os.path.getsize(path) == 0:
            raise Failure(f"{path} is empty")


main()
