# SPDX-License-Identifier: LGPL-2.1-or-later
"""File trees beside rsync, in one run on one machine.

python3 tests/bench/tree [--rounds N] [--cold] [--json FILE]

One ext4 image, made from what /usr holds and generated files, becomes a tree by `rsync -aHAX --link-dest` from a loop
mount of it and by us: the first tree, that of the unchanged image, that of an image on which a day has passed. Ours are
checked by `rsync -n -aHAX --delete --checksum -i`. `links` is the floor under an unchanged tree: what mkdir and link
alone cost.

Both begin alike: the image's bytes in the page cache, its file system mounted just now, the earlier tree's inodes as its
writing left them in memory; --cold drops all that the kernel remembers of files. Both end alike: with everything on disk.

As root, after packaging/install-deps test. N is 3. The table is Markdown on standard output (docs/performance.md has one);
STILLPOINT_BUILD names the build to measure.
"""

import argparse
import collections
import os
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2]), str(pathlib.Path(__file__).resolve().parents[1])]
from engine.measure import cost, machine, save, table, warm
from support.scratch import SOURCE, Failure, run, say, scratch_directory, unwind_on_signals
from tree import image

RSYNC = "rsync -aHAX --link-dest"
OURS = "stillpoint"
BUILD = SOURCE / os.environ.get("STILLPOINT_BUILD", "build")
LINKS = """
import os, sys
def link(source, target):
    os.mkdir(target)
    for entry in list(os.scandir(source)):
        if entry.is_dir(follow_symlinks=False):
            link(entry.path, os.path.join(target, entry.name))
        else:
            os.link(entry.path, os.path.join(target, entry.name), follow_symlinks=False)
link(*sys.argv[1:])
"""


class Bench:
    def __init__(self, scratch, cold):
        self.scratch = scratch
        self.cold = cold
        self.images = {"first": scratch / "first.raw", "changed": scratch / "changed.raw"}
        self.point = scratch / "mount"

    def make(self):
        say("making the images")
        image.make(self.images["first"], self.point)
        run(["cp", "--sparse=always", self.images["first"], self.images["changed"]], 600)
        image.change(self.images["changed"], self.point)
        with image.Mount(self.images["first"], self.point):
            entries, size = image.counted(self.point)
        return f"{entries} entries, {size / 1e9:.1f} GB"

    def forget(self, path):
        """The same beginning for everybody."""
        run(["sync", "-f", self.scratch], 600)
        if self.cold:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
        else:
            warm(path)

    def rsync(self, path, target, previous):
        self.forget(path)
        with image.Mount(path, self.point):
            argv = ["rsync", "-aHAX", *([f"--link-dest={previous}"] if previous else []), f"{self.point}/", f"{target}/"]
            return cost(argv, self.scratch)

    def ours(self, path, target, previous):
        self.forget(path)
        argv = [BUILD / "tests/functional/tree-driver", path, target.parent / "ours-all"]
        # The driver makes a directory with a tree for each file system: this image has one, number 0.
        if previous:
            os.makedirs(target.parent / "ours-previous")
            os.rename(previous, target.parent / "ours-previous/0")
            argv.append(target.parent / "ours-previous")
        try:
            return cost(argv, self.scratch)
        finally:
            if previous:
                os.rename(target.parent / "ours-previous/0", previous)
                os.rmdir(target.parent / "ours-previous")
            os.rename(target.parent / "ours-all/0", target)
            os.rmdir(target.parent / "ours-all")

    def links(self, previous, target):
        self.forget(self.images["first"])
        return cost([sys.executable, "-c", LINKS, previous, target], self.scratch)

    def check(self, path, target):
        with image.Mount(path, self.point):
            done = run(["rsync", "-n", "-aHAX", "--delete", "--checksum", "-i", f"{self.point}/", f"{target}/"], 900)
        if done.stdout:
            raise Failure(f"{target} is not what {path} holds:\n{done.stdout[:2000]}")

    def round(self, number, costs):
        first, changed = self.images["first"], self.images["changed"]
        for name, make in ((RSYNC, self.rsync), (OURS, self.ours)):
            # None is deleted before the end: ext4 looks long for inodes where others were let go just now.
            trees = [self.scratch / f"{number}-{make.__name__}-{tree}" for tree in range(3)]
            costs["First tree"][name].append(make(first, trees[0], None))
            costs["Nothing changed"][name].append(make(first, trees[1], trees[0]))
            costs["A day later"][name].append(make(changed, trees[2], trees[1]))
            if name == OURS:
                for path, tree in zip((first, first, changed), trees):
                    self.check(path, tree)
                costs["Nothing changed"]["links alone"].append(self.links(trees[0], self.scratch / f"{number}-links"))


def main():
    unwind_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="nothing is in the page cache")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise Failure("needs root, for loop mounts")
    run(["ninja", "-C", BUILD, "tests/functional/tree-driver", "host/capture/stillpoint-tree-worker"], 900)
    costs = collections.defaultdict(lambda: collections.defaultdict(list))
    with scratch_directory() as scratch:
        bench = Bench(scratch, arguments.cold)
        size = bench.make()
        print(f"{machine()}; {size}; median of {arguments.rounds}\n", flush=True)
        for number in range(arguments.rounds):
            say(f"round {number + 1}")
            bench.round(number, costs)
    for title, by_tool in costs.items():
        print(table(title, by_tool, RSYNC), flush=True)
    if arguments.json:
        save(costs, arguments.json)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"tree: {failure}")
