# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command costs, and tables of it."""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import time

from support.scratch import Failure


@dataclasses.dataclass
class Cost:
    wall: float  # seconds, until everything is on disk
    cpu: float  # seconds, user and system, of the command and its children
    memory: int  # bytes, of its largest process
    added: int = None  # bytes on disk


def cost(argv, scratch, limit=1800, **options):
    """Runs a command and a sync of the file system that it writes to."""
    log = scratch / "output.log"
    _sync(scratch)  # nobody pays for what another has written or removed
    with open(log, "wb") as output:
        begin = time.monotonic()
        process = subprocess.Popen(
            ["timeout", "--foreground", str(limit), *map(os.fspath, argv)],
            stdin=subprocess.DEVNULL, stdout=options.pop("stdout", output), stderr=output, **options,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        _sync(scratch)
        wall = time.monotonic() - begin
    if process.returncode != 0:
        text = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise Failure(f"{' '.join(map(str, argv))}: exit code {process.returncode}\n{text}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _sync(directory):
    subprocess.run(["sync", "-f", str(directory)], check=True, timeout=600)


def warm(path):
    """Reads a file, so that nobody pays for the first read of it."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def median(costs):
    """Of several runs, value by value."""
    return Cost(*(
        None if getattr(costs[0], field.name) is None else statistics.median(getattr(one, field.name) for one in costs)
        for field in dataclasses.fields(Cost)
    ))


def machine():
    """One line about where the numbers come from."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
         if line.startswith("model name")), "unknown processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} x {cpu}, {memory:.0f} GiB, Linux {os.uname().release.split('-')[0]}"


def table(title, costs, ours):
    """Markdown: a row for each tool, beside the ratio of its wall time to that of the tool named `ours`."""
    lines = [f"### {title}", "", f"| | wall s | CPU s | memory MB | added MB | wall / {ours} |", "|---|---:|---:|---:|---:|---:|"]
    for tool, samples in costs.items():
        one = median(samples)
        added = "" if one.added is None else f"{one.added / 1e6:.1f}"
        ratio = one.wall / median(costs[ours]).wall if ours in costs else float("nan")
        lines.append(f"| {tool} | {one.wall:.2f} | {one.cpu:.2f} | {one.memory / 1e6:.0f} | {added} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def save(costs, path):
    """The bare numbers, as JSON."""
    plain = {o: {t: [dataclasses.asdict(one) for one in of] for t, of in by.items()} for o, by in costs.items()}
    path.write_text(json.dumps({"machine": machine(), "costs": plain}, indent=1) + "\n", encoding="utf-8")
