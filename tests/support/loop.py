# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this machine's kernel mounts for a test."""

from .scratch import run


class LoopMount:
    """An image's file system at `point`, until the block ends."""

    def __init__(self, image, point):
        point.mkdir(exist_ok=True)
        self.point = point
        run(["mount", "-o", "loop", image, point], 60)

    def __enter__(self):
        return self.point

    def __exit__(self, *_):
        # A mount namespace that another test made meanwhile may hold it on: then nothing is written back by this.
        run(["sync", "-f", self.point], 60)
        run(["umount", self.point], 60)
