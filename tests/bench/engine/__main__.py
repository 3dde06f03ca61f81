# SPDX-License-Identifier: LGPL-2.1-or-later
"""The repository engine beside its peers, in one run on one machine.

python3 tests/bench/engine [--size 2G] [--rounds N] [--only NAME]... [--json FILE] [PART]...

images  (default) an image is kept in full, after scattered writes, after clustered writes and after none;
        restored and compared; verified. Every tool reads all of the image each time, as it must of a disk of which nobody
        tells what has changed
guest   (default) a guest's disk, of which QEMU does tell: `backup` beside virtnbdbackup
dumps   (default) what the next dump of a PostgreSQL database adds
growth  the guest with disks of 2, 20 and 200 GiB, and an index of 1, 10 and 100 million chunks (15 GB of disk, 15 min)
pieces  the engine's inner pieces, each by itself

As root, after packaging/install-deps bench. N is 3; --only is for images and guest; growth begins at 2 GiB whatever --size says.
The table is Markdown on standard output (docs/performance.md has one); STILLPOINT_BUILD names the build to measure.
"""

import argparse
import collections
import filecmp
import os
import pathlib
import shutil
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2]), str(pathlib.Path(__file__).resolve().parents[1])]
from engine import dumps, image, live
from engine.measure import machine, save, table, warm
from engine.tools import NAME, PEERS, TOOLS, Stillpoint
from support.companion import built_companion
from support.scratch import SOURCE, Failure, run, say, scratch_directory, unwind_on_signals

STATES = {"Full": "base", "After scattered writes, read anew": "scattered",
          "After clustered writes, read anew": "clustered", "Nothing changed, read anew": "clustered"}


def size_of(text):
    units = {"M": 1 << 20, "G": 1 << 30}
    if text[-1:] not in units or not text[:-1].isdigit():
        raise argparse.ArgumentTypeError(f"{text}: a size is a number and M or G, as in 2G")
    return int(text[:-1]) * units[text[-1]]


def states(directory, size):
    """The image at three times, below directories of their names."""
    for name in set(STATES.values()):
        (directory / name).mkdir(parents=True)
    image.make(directory / "base" / NAME, size, directory)
    image.change(directory / "base" / NAME, directory / "scattered" / NAME, True)
    image.change(directory / "scattered" / NAME, directory / "clustered" / NAME, False)
    return directory


def check(restored, wanted):
    if not filecmp.cmp(restored, wanted, shallow=False):
        raise Failure(f"{restored} is not {wanted}")
    restored.unlink()


def one_round(kind, scratch, of, costs):
    """All that a tool can do, once."""
    tool = kind(scratch / "tool")
    tool.prepare()
    for operation, state in STATES.items():
        if operation == "Full" or kind.incremental:
            warm(of / state / NAME)
            costs[operation][kind.name].append(tool.save(of / state))
    target = scratch / "tool" / "restored"
    if hasattr(tool, "restore"):
        costs["Restore"][kind.name].append(tool.restore(target))
        check(target, of / ("clustered" if kind.incremental else "base") / NAME)
    if hasattr(tool, "verify"):
        costs["Verify, all data read"][kind.name].append(tool.verify())
    shutil.rmtree(scratch / "tool")


def build_directory():
    return SOURCE / os.environ.get("STILLPOINT_BUILD", "build")


def images(scratch, arguments, costs):
    kinds = [kind for kind in TOOLS if not arguments.only or any(part in kind.name for part in arguments.only)]
    missing = [name for name in PEERS if not shutil.which(name)]
    if missing and not arguments.only:
        raise Failure(f"not installed: {' '.join(missing)}; run packaging/install-deps bench")
    say("making the images")
    of = states(scratch / "images", arguments.size)
    of_images = collections.defaultdict(lambda: collections.defaultdict(list))
    for number in range(arguments.rounds):
        for kind in kinds:
            say(f"round {number + 1}: {kind.name}")
            one_round(kind, scratch, of, of_images)
    show(of_images, costs)


def guest(scratch, arguments, costs):
    show(live.measure(scratch, arguments), costs)


def growth(scratch, arguments, costs):
    show(live.grow(scratch, arguments), costs, "2 GiB")
    build = build_directory()
    run(["ninja", "-C", build, "tests/bench/bench-index-scale"], 600)
    print("### Index\n\n| chunks | TB of disks | open s | known us | unknown us | own MB | mapped MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for chunks in (1_000_000, 10_000_000, 100_000_000):
        say(f"an index of {chunks} chunks")
        command = [build / "tests/bench/bench-index-scale", scratch / "index", str(chunks)]
        run(command, 1800)  # makes it
        print(run(command, 600).stdout, end="", flush=True)
        shutil.rmtree(scratch / "index")
    print()


def dump_changes(scratch, _arguments, _costs):
    print(dumps.measure(scratch, build_directory()), flush=True)


def pieces(_scratch, _arguments, _costs):
    build = build_directory()
    run(["ninja", "-C", build, "tests/bench/bench-pieces"], 600)
    print(run([build / "tests/bench/bench-pieces"], 600).stdout, flush=True)


PARTS = {"images": images, "guest": guest, "dumps": dump_changes, "growth": growth, "pieces": pieces}


def part_of(name):
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(PARTS)}")
    return PARTS[name]


def show(tables, costs, measure=Stillpoint.name):
    for title, by_tool in tables.items():
        costs[title] = by_tool
        print(table(title, by_tool, measure), flush=True)


def main():
    unwind_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default=2 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="tools whose name has this in it")
    parser.add_argument("parts", nargs="*", type=part_of, metavar="PART")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    Stillpoint.program = built_companion()
    costs = {}
    print(f"{machine()}; image of {arguments.size >> 20} MiB; median of {arguments.rounds}\n", flush=True)
    with scratch_directory() as scratch:
        for part in arguments.parts or (images, guest, dump_changes):
            part(scratch, arguments, costs)
    if arguments.json:
        save(costs, arguments.json)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"engine: {failure}")
