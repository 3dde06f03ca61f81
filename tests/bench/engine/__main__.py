# SPDX-License-Identifier: LGPL-2.1-or-later
"""The repository engine beside its peers, in one run on one machine.

python3 tests/bench/engine [--size 2G] [--rounds N] [--only NAME]... [--no-guest] [--growth] [--json FILE]

An image is kept in full, after scattered writes, after clustered writes and after none; restored and compared; verified.
Every tool reads all of the image each time, as it must of a disk of which nobody tells what has changed. Then a guest's
disk, of which QEMU does tell: `backup` beside virtnbdbackup. --growth repeats the guest with 2, 20 and 200 GiB disks.

The table is Markdown on standard output (docs/performance.md has one); STILLPOINT_BUILD names the build to measure.
"""

import argparse
import collections
import dataclasses
import filecmp
import json
import pathlib
import shutil
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2]), str(pathlib.Path(__file__).resolve().parents[1])]
from engine import image, live
from engine.measure import machine, table, warm
from engine.tools import NAME, PEERS, TOOLS, Stillpoint
from support.companion import built_companion
from support.scratch import Failure, say, scratch_directory, unwind_on_signals

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


def main():
    unwind_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default=2 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="tools whose name has this in it")
    parser.add_argument("--no-guest", action="store_true")
    parser.add_argument("--no-images", action="store_true", help="the guest only")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    Stillpoint.program = built_companion()
    kinds = [kind for kind in TOOLS if not arguments.only or any(part in kind.name for part in arguments.only)]
    missing = [name for name in PEERS if not shutil.which(name)]
    if missing and not arguments.only:
        raise Failure(f"not installed: {' '.join(missing)}; run packaging/install-deps bench")
    costs = collections.defaultdict(lambda: collections.defaultdict(list))
    print(f"{machine()}; image of {arguments.size >> 20} MiB; median of {arguments.rounds}\n", flush=True)
    with scratch_directory() as scratch:
        if not arguments.no_images:
            say("making the images")
            of = states(scratch / "images", arguments.size)
            for number in range(arguments.rounds):
                for kind in kinds:
                    say(f"round {number + 1}: {kind.name}")
                    one_round(kind, scratch, of, costs)
            for operation, by_tool in costs.items():
                print(table(operation, by_tool, Stillpoint.name), flush=True)
        if not arguments.no_guest:
            for title, by_tool in live.measure(scratch, arguments).items():
                costs[title] = by_tool
                print(table(title, by_tool, Stillpoint.name), flush=True)
    if arguments.json:
        plain = {o: {t: [dataclasses.asdict(one) for one in of] for t, of in by.items()} for o, by in costs.items()}
        arguments.json.write_text(json.dumps({"machine": machine(), "costs": plain}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"engine: {failure}")
