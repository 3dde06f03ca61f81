# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest and its backups: stopped at a state, and looked at afterwards."""

import json
import os
import re
import subprocess
import time

from support.companion import Companion
from support.scratch import Failure, run as run_command, wait_until

from inside import Inside
from states import agent_states

APPLICATION = "application"
KINDS = {
    0: "", 1: "failure", 4: "not found", 5: "unreachable", 6: "refused", 7: "not captured", 8: "not stored", 10: "locked",
    12: "incomplete",
}  # docs/man/stillpoint.1
# Everything that was written to before must be written to again: three file systems, two servers. Whoever still holds a
# lock or a freeze makes one of these wait.
FILES = "for d in / /var/lib/postgresql /srv; do echo x >$d/witness && sync $d/witness && rm $d/witness || exit 1; done"
ROWS = """
runuser -u postgres -- psql -qAt -d shop -v ON_ERROR_STOP=1 -c "set statement_timeout='15s'" \\
  -c "lock table customers, products, orders in row exclusive mode; insert into witness values ({mark})" &&
mariadb forum -e "set statement max_statement_time=15 for insert into witness values ({mark})"
"""
HELD = """runuser -u postgres -- psql -qAt -c "select count(*) from pg_stat_activity where application_name = 'stillpoint'" """


class Backup:
    """One run of the companion's backup verb."""

    def __init__(self, companion, domain, arguments, pause):
        command = [companion.program, "backup", domain, "--json", "--no-trees", *map(str, arguments)]
        command += ["--repository", companion.repository, "--connect", companion.uri]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "STILLPOINT_TEST_PAUSE": str(pause)},
        )
        self.pid = self.process.pid
        self.output = self.errors = ""

    def running(self):
        return self.process.poll() is None

    def wait(self, limit):
        """Whether it has ended in time."""
        try:
            self.output, self.errors = self.process.communicate(timeout=limit)
            return True
        except subprocess.TimeoutExpired:
            return False

    @property
    def status(self):
        return self.process.returncode

    def manifest(self):
        return json.loads(self.output) if self.status in (0, 12) else None

    def outcome(self):
        """In a word or two."""
        if self.status < 0:
            return "killed"
        words = [self.manifest()["grade"]] if self.manifest() else []
        return ", ".join(words + [KINDS.get(self.status, str(self.status))] * bool(self.status))


class Stage:
    """The guest under test, the companion, and the marks by which its databases' states are told apart."""

    def __init__(self, libvirtd, guest, companion, scratch, ceph=None):
        self.libvirtd = libvirtd
        self.ceph = ceph
        self.guest = guest
        self.companion = companion
        self.scratch = scratch
        self.inside = Inside(guest)
        self.small = scratch / "small"  # a file system with little room
        self.pause = scratch / "pause"
        self.pause.mkdir()
        self.backup = None
        self.others = []  # further backups of one cell
        self.mark = 0
        self.mark_at_start = 0
        self.present = {}  # state -> roles that live in the guest then

    def listed(self, companion=None):
        return [entry["name"] for entry in (companion or self.companion).json("list")]

    # A backup, and where it stands.

    def start(self, *arguments, companion=None):
        self.mark_at_start = self.mark
        self.backup = Backup(companion or self.companion, self.guest.name, arguments, self.pause)
        return self.backup

    def another(self, *arguments):
        """A second backup, which is not stopped anywhere, to its end."""
        other = Backup(self.companion, self.guest.name, arguments, self.scratch)
        self.others.append(other)
        if not other.wait(120):
            raise Failure("the second backup does not end")
        return other

    def arm(self, state):
        if state in agent_states():
            self.inside.ask("arm", state)
        else:
            (self.pause / state).touch()

    def reached(self, state):
        if not self.backup.running():
            self.backup.wait(10)
            raise Failure(f"the backup ended before it was {state}: {self.backup.outcome()}: {self.backup.errors[-2000:]}")
        if state in agent_states():
            return self.inside.ask("reached", state)
        return (self.pause / f"{state}.reached").exists()

    def start_until(self, state, *arguments, companion=None):
        """Starts a backup and returns when it stands at the state; `idle` is before its start."""
        if state == "idle":
            return
        self.arm(state)
        self.start(*arguments, companion=companion)
        wait_until(lambda: self.reached(state), 90, f"the state {state}", 0.03)

    def go_on(self, state):
        if state == "idle":
            self.start()
        elif state in agent_states():
            self.inside.ask("disarm")
        else:
            (self.pause / f"{state}.reached").unlink(missing_ok=True)

    # What must hold afterwards.

    def is_frozen(self):
        return self.inside.run(FILES, 1)[0] != 0

    def files_are_written(self, limit=60):
        """How many seconds it took until every file system took a write."""
        begun = time.monotonic()
        while True:
            status, output = self.inside.run(FILES, 3)
            if status == 0:
                return time.monotonic() - begun
            if time.monotonic() - begun > limit:
                raise Failure(f"the guest's file systems take no writes for {limit} s: {output}")
            time.sleep(0.5)

    def rows_are_written(self, limit=90):
        end = time.monotonic() + limit
        while True:
            status, output = self.inside.run(ROWS.format(mark=self.mark + 1), 40)
            if status == 0:
                self.mark += 1
                return
            if "uplicate" in output:  # one of the two servers had it already
                self.mark += 1
            if time.monotonic() > end:
                raise Failure(f"the databases take no writes for {limit} s: {output[-500:]}")
            time.sleep(1)

    def nothing_is_held(self, limit=60):
        wait_until(lambda: self.inside.run(HELD, 30)[1].strip() == "0", limit, "the agent lets its sessions go", 1)

    def runs(self):
        if "running" not in self.libvirtd.virsh("domstate", self.guest.name).stdout:
            raise Failure("the domain does not run")

    def is_honest(self, manifest, mark):
        """That what the manifest claims is what it has evidence of."""
        if manifest["grade"] != APPLICATION:
            return
        window, report = manifest["window"], manifest["report"]
        claims = {
            "no fewer file systems thawed than frozen": 0 < window["frozen"] <= window["thawed"],
            "the report of this still point": report["id"] == manifest["id"],
            "quiesced": report["quiesced"],
            "the watchdog did not fire": not report["watchdog_fired"],
            "every database exact": all(entry["exactness"] == "exact" for entry in report["databases"]),
        }
        wrong = [claim for claim, true in claims.items() if not true]
        # One row was written before this backup, others after its instant.
        for dump in manifest["dumps"]:
            if dump.get("failure") or not dump["name"].endswith(("/shop", "/forum")):
                continue
            text = self.companion.dump(manifest["name"], dump["name"]).decode("utf-8", "replace")
            if marks_of(text) != mark:
                wrong.append(f"{dump['name']} ends at mark {marks_of(text)}, not {mark}")
        if wrong:
            raise Failure(f"grade application without: {', '.join(wrong)}")

    def next_backup(self, incremental):
        """It has nothing to do with the fault any more: of the best grade, and read from the dirty bitmaps."""
        arguments = ["--json", "--no-trees", "--no-dumps", "--require", APPLICATION]
        done = self.companion.run("backup", self.guest.name, *arguments, check=False, timeout=180)
        if done.returncode != 0:
            raise Failure(f"the next backup fails: {done.stderr[-1500:]}")
        tracked = [disk for disk in json.loads(done.stdout)["disks"] if disk["format"] == "qcow2" or disk.get("rbd")]
        if incremental and not all(disk["incremental"] for disk in tracked):
            raise Failure(f"the next backup is not incremental: {[disk.get('full_reason') for disk in tracked]}")
        self.restores(json.loads(done.stdout)["name"])

    def restores(self, name):
        """That the repository gives back a disk whose file system is whole: what the cell stored is part of it."""
        image = self.companion.restore(name, "vdb", self.scratch / "vdb.raw", "raw")
        try:
            done = run_command(["e2fsck", "-fn", image], 60, check=False)
            if done.returncode != 0:
                raise Failure(f"the file system of {name} is damaged: {done.stdout[-1000:]}")
        finally:
            image.unlink()

    def clean(self):
        """What a cell that failed may have left."""
        for path in self.pause.iterdir():
            path.unlink()
        for backup in [self.backup, *self.others]:
            if backup and backup.running():
                backup.process.kill()
                backup.wait(10)
        self.backup = None
        self.others = []


def marks_of(dump):
    """The highest mark in a dump of either server."""
    rows = re.search(r"^COPY public\.witness [^\n]*\n(.*?)^\\\.$", dump, re.DOTALL | re.MULTILINE) or re.search(
        r"^INSERT INTO `witness` VALUES([^;]*);", dump, re.MULTILINE
    )
    return max(map(int, re.findall(r"\d+", rows[1])), default=0) if rows else 0


def companion_of(stage, repository):
    """The same companion on another repository."""
    other = Companion(stage.companion.program, stage.companion.uri, repository)
    other.init()
    return other
