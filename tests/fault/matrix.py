#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Never left frozen: every fault at every state of the flow, in a real guest; the outcome of each as a table.

matrix.py [--only REGEX]... [--minutes N] [--results FILE]   runs cells "FAULT @ STATE" that FILE has no outcome of yet
matrix.py --table FILE                                       prints the tables of FILE as Markdown
matrix.py --short                                            one cell, for a quick look

--ceph, with either of the first two: the guest's disks are RBD images, and the cluster's daemons are struck
"""

import argparse
import contextlib
import json
import pathlib
import re
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed
from support.companion import Companion, built_companion
from support.guest import Guest, fresh_disks
from support.image import build_packages, guest_image
from support.libvirtd import Libvirtd, domain_type, skip_unless_possible
from support.scratch import Failure, run as run_command, say, scratch_directory, unwind_on_signals

import deaths
import disturbances
from parties import IN_CEPH, PARTIES
from stage import Stage
from states import in_order

SHORT = [
    ("KILL agent", "quiesced"),
]
JOURNAL = (
    "journalctl -b --no-pager -n 60 _SYSTEMD_UNIT=stillpoint-agent.service + SYSLOG_IDENTIFIER=stillpoint-fsfreeze-hook"
    " + SYSLOG_IDENTIFIER=qemu-ga | grep -E '^[A-Z].*\\]: ' | grep -vE 'guest-(exec|file)'"
)


ON_THIS_MACHINE = [name for name in PARTIES if name not in IN_CEPH]


def all_cells(ceph):
    """By state, so that a run that is cut short has looked at every fault of the states that it came to."""
    order = in_order()
    cells = deaths.cells(IN_CEPH) if ceph else deaths.cells(ON_THIS_MACHINE) + disturbances.cells()
    return sorted(cells, key=lambda cell: ("QEMU" in cell[0], order.index(cell[1])))


def attempt(stage, fault, state):
    """One cell with everything that must hold after it; its outcome, or Failure."""
    kind = disturbances if fault in disturbances.FAULTS else deaths
    before = stage.listed()
    outcome = kind.run(stage, fault, state)
    if not stage.backup:
        return outcome  # known to be absent
    stage.runs()
    stage.files_are_written()
    stage.rows_are_written()
    stage.nothing_is_held()
    new = [name for name in stage.listed() if name not in before]
    good = [backup for backup in [stage.backup, *stage.others] if backup.status in (0, 12)]
    # Killed after the commit it is there; before, nothing of it is.
    if len(new) != len(good) and not (outcome == "killed" and state in ("end-job", "finishing") and len(new) == 1):
        raise Failure(f"{len(new)} still points are listed, {len(good)} backups said so")
    stage.next_backup(incremental="QEMU" not in fault)
    return outcome


def run_cell(stage, fault, state):
    """{outcome, good, seconds, detail}"""
    begun = time.monotonic()
    detail = ""
    try:
        outcome = attempt(stage, fault, state)
        good = True
    except (Failure, AssertionError, KeyError, TypeError) as failure:
        outcome, good, detail = "FAILED", False, f"{type(failure).__name__}: {failure}"
        if stage.backup:
            detail += f"\nbackup: {stage.backup.errors[-2500:]}"
    if stage.backup and not detail:
        detail = stage.backup.errors[-1500:]
    stage.clean()
    return {"outcome": outcome, "good": good, "seconds": round(time.monotonic() - begun), "detail": detail}


def recover(stage):
    """After a cell that failed: whatever is still frozen or stopped would fail those after it."""
    try:
        say(stage.inside.run(JOURNAL, 20)[1])
        for role in ("hook", "agent", "watchdog", "qemu-ga", "postgresql", "mariadb"):
            stage.inside.ask("strike", role, 18)
        stage.inside.ask("disarm")
        stage.inside.run("for d in / /var/lib/postgresql /srv; do fsfreeze -u $d; done", 10)
        stage.companion.run("thaw", stage.guest.name, "--force", check=False)
        stage.inside.run("systemctl restart stillpoint-agent; systemctl start postgresql@15-main mariadb", 90)
        stage.next_backup(incremental=False)
    except Failure as failure:
        if stage.ceph:
            raise  # it was moved to Ceph while it ran, and would begin with its old disks
        say(f"  starting the guest anew: {failure}")
        PARTIES["QEMU"].strike(stage, 9)
        PARTIES["QEMU"].mend(stage, 9)
        stage.next_backup(incremental=False)


class Results:
    """Outcomes, kept in a file between runs."""

    def __init__(self, path):
        self.path = path
        self.cells = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}

    def add(self, fault, state, cell):
        self.cells[f"{fault} @ {state}"] = cell
        if self.path:
            self.path.write_text(json.dumps(self.cells, indent=1), encoding="utf-8")

        if cell["outcome"] == deaths.ABSENT and fault.startswith("KILL"):
            self.add(fault.replace("KILL", "STOP", 1), state, cell)

    def has(self, fault, state):
        return f"{fault} @ {state}" in self.cells

    def text(self, fault, state):
        cell = self.cells.get(f"{fault} @ {state}")
        return "not run" if cell is None else cell["outcome"] if cell["good"] else "**FAILED**"


def tables(results, ceph):
    """Markdown."""
    parties = IN_CEPH if ceph else ON_THIS_MACHINE
    for signal in ("KILL", "STOP"):
        yield f"| {signal} | " + " | ".join(parties) + " |"
        yield "|---" * (len(parties) + 1) + "|"
        for state in in_order():
            yield f"| {state} | " + " | ".join(results.text(f"{signal} {party}", state) for party in parties) + " |"
        yield ""
    if ceph:
        return
    yield "| fault | state | outcome |"
    yield "|---|---|---|"
    for name, state in disturbances.cells():
        yield f"| {name} | {state} | {results.text(name, state)} |"


@contextlib.contextmanager
def cluster_for(ceph, scratch):
    """A cluster that outlives its daemons, or None."""
    if not ceph:
        yield None
        return
    with Ceph(scratch / "ceph") as cluster:
        yield cluster


def run_cells(cells, results, minutes, ceph):
    """Whether all were good."""
    good = True
    image = guest_image(build_packages("--agent-only")["stillpoint-agent"])
    kind = domain_type(image)
    with scratch_directory() as scratch:
        (scratch / "small").mkdir()
        # Before libvirtd: its namespace is a copy of ours.
        run_command(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", scratch / "small"], 10)
        try:
            with Libvirtd(scratch / "libvirtd") as libvirtd, cluster_for(ceph, scratch) as cluster:
                companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
                companion.init()
                disks = fresh_disks(image, scratch / "web1")
                with Guest(libvirtd, image, "web1", disks, kind, scratch / "web1", test_port=True) as guest:
                    guest.wait_agent()
                    guest.wait_databases()
                    for target in ("vda", "vdb") if cluster else ():
                        cluster.take_disk(libvirtd, guest, target)
                    stage = Stage(libvirtd, guest, companion, scratch, cluster)
                    stage.inside.plant()
                    stage.next_backup(incremental=False)
                    begun = time.monotonic()
                    say("the guest is ready")
                    try:
                        for fault, state in cells:
                            if minutes and time.monotonic() - begun > minutes * 60:
                                break
                            if results.has(fault, state):
                                continue
                            cell = run_cell(stage, fault, state)
                            results.add(fault, state, cell)
                            say(f"{cell['seconds']:4} s  {fault} @ {state}: {cell['outcome']}")
                            if not cell["good"]:
                                good = False
                                say("  " + cell["detail"].replace("\n", "\n  "))
                                recover(stage)
                    finally:
                        # A companion that ends with this program in its window leaves one, which would try for an hour.
                        PARTIES["thaw guard"].strike(stage, signal.SIGKILL)
        finally:
            run_command(["umount", "-l", scratch / "small"], 10)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--results", type=pathlib.Path)
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--ceph", action="store_true")
    options = parser.parse_args()
    if options.table:
        print("\n".join(tables(Results(options.table), options.ceph)))
        return
    unwind_on_signals()
    skip_unless_possible()
    if options.ceph:
        skip_unless_installed()
    results = Results(options.results)
    cells = SHORT if options.short else [cell for cell in all_cells(options.ceph) if not results.has(*cell)]
    if options.only:
        cells = [cell for cell in cells if any(re.search(only, " @ ".join(cell)) for only in options.only)]
    good = run_cells(cells, results, options.minutes, options.ceph)
    if not options.short:
        print("\n".join(tables(results, options.ceph)))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
