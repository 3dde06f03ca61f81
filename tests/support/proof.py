# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is a dump what the database in the block snapshot was? Dumped again after its recovery, the two must be equal.

Three things differ without telling anything, and are taken out of both sides first:
- sequence values and AUTO_INCREMENT: neither server's sequences belong to a snapshot, so a dump reads later ones than
  its rows. PostgreSQL's are compared separately, with the values that the report attests.
- the random key of pg_dump's \\restrict.
"""

import difflib
import json
import pathlib
import re
import shlex
import sys

from .image import SRV_OFFSET
from .scratch import Failure, run

COMPARE = pathlib.Path(__file__).parent / "compare_trees.py"

IGNORED = (
    (re.compile(rb"^SELECT pg_catalog\.setval\(.*\);$", re.MULTILINE), b""),
    (re.compile(rb"^\\(un)?restrict \w+$", re.MULTILINE), b""),
    (re.compile(rb" AUTO_INCREMENT=\d+"), b""),
)


# What the agent's dump tool of MariaDB is told, so that two dumps can be compared.
MARIADB_DUMP = (
    "--no-defaults --user=root --default-character-set=utf8mb4 --max-allowed-packet=1G --single-transaction "
    "--skip-lock-tables --quick --hex-blob --skip-dump-date --no-tablespaces --skip-ssl"
).split()
MARIADB_DATABASE = ["--order-by-primary", "--routines", "--triggers", "--events", "--"]
MARIADB_ACCOUNTS = ["--insert-ignore", "--system=users,udfs,servers"]


def comparable(dump):
    for pattern, replacement in IGNORED:
        dump = pattern.sub(replacement, dump)
    return dump


def dump_command(name):
    """The shell command that dumps in the guest what the agent's dump of that name holds."""
    engine, _instance, database = name.split("/", 2)
    if engine == "postgresql":
        tool = "runuser -u postgres -- env LC_ALL=C "
        if database == "@globals":
            return tool + "pg_dumpall --globals-only"
        return tool + "pg_dump --format=plain --no-unlogged-table-data -d " + shlex.quote(database)
    what = MARIADB_ACCOUNTS if database == "@system" else [*MARIADB_DATABASE, database]
    return shlex.join(["mariadb-dump", *MARIADB_DUMP, "--socket=/run/mysqld/mysqld.sock", *what])


def dump_again(guest, name):
    guest.sh(f"{dump_command(name)} >/run/dump", 300)
    return guest.read_file("/run/dump")


def difference(stored, again):
    """The first lines in which two dumps differ; empty when they are equal."""
    stored, again = comparable(stored), comparable(again)
    if stored == again:
        return ""
    lines = [dump.decode("utf-8", "replace").splitlines() for dump in (stored, again)]
    found = [line[:160] for line in difflib.unified_diff(*lines, "dump", "recovered", n=0, lineterm="")]
    return "\n".join(found[:12]) or "they differ in bytes that are no UTF-8"


def sequence_difference(guest, database, sequences):
    """Of the sequences that the report attests, those that the recovered database has otherwise."""
    if not sequences:
        return ""
    query = " UNION ALL ".join(f"SELECT last_value, is_called FROM {entry['name']}" for entry in sequences)
    command = f"runuser -u postgres -- psql -qAtX -d {shlex.quote(database)} -c {shlex.quote(query)}"
    rows = guest.sh(command).split()
    if len(rows) != len(sequences):
        raise Failure(f"{database}: {len(rows)} of {len(sequences)} sequences")
    attested = [f"{entry['last_value']}|{'t' if entry['is_called'] else 'f'}" for entry in sequences]
    return ", ".join(
        f"{entry['name']}: attested {was}, recovered {now}"
        for entry, was, now in zip(sequences, attested, rows)
        if was != now
    )


def without_transactions(record):
    """Whether the report flags tables of this database that a crash does not recover to the barrier."""
    return any(entry["kind"] == "non-transactional-table" for entry in record.get("not_covered", []))


class Row:
    """One line of a proof: what was looked at, what was found, and whether it is good."""

    def __init__(self, what, found, good, detail=""):
        self.what = what
        self.found = found
        self.good = good
        self.detail = detail


def size(count):
    """Bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def restore_disks(companion, manifest, directory):
    """All disks of a still point as new images: [(target, format, path)]. vdb becomes qcow2, the others raw."""
    directory.mkdir(parents=True, exist_ok=True)
    disks = []
    for disk in manifest["disks"]:
        format_ = "qcow2" if disk["target"] == "vdb" else "raw"
        path = directory / f"{disk['target']}.{format_}"
        companion.restore(manifest["name"], disk["target"], path, format_)
        disks.append((disk["target"], format_, path))
    return disks


def prove_trees(companion, manifest, disks, directory):
    """Every tree against the kernel's view of the restored disk; before a guest boots from it."""
    offsets = {"vdc2": SRV_OFFSET}
    images = {target: (format_, path) for target, format_, path in disks}
    for tree in manifest["trees"]:
        what = f"tree {tree['mount_point'] or tree['file_system']}"
        if tree.get("failure"):
            yield Row(what, "no tree", False, tree["failure"])
            continue
        format_, path = images[tree["disk"]]
        if format_ != "raw":
            raw = directory / f"{tree['disk']}.compared"
            run(["qemu-img", "convert", "-O", "raw", path, raw], 300)
            path = raw
        arguments = [companion.repository / tree["path"], path, str(offsets.get(tree["file_system"], 0))]
        found = json.loads(run(["unshare", "-m", sys.executable, "-B", COMPARE, *arguments], 600).stdout)
        if format_ != "raw":
            path.unlink()
        verdict = f"{found['entries']} entries, {size(found['bytes'])} " + (
            "differ from the restored disk" if found["differences"] else "== restored disk"
        )
        yield Row(what, verdict, not found["differences"], "\n".join(found["differences"]))


def prove_databases(companion, manifest, guest):
    """Every database of the report against the same database recovered from the restored disks."""
    for record in manifest["report"]["databases"]:
        what = f"{record['engine']} {record['database'] or record['dump'].rpartition('/')[2]}"
        if not record["dump"]:
            yield Row(what, f"{record['exactness']}, no dump", False, record["reason"])
            continue
        if without_transactions(record):
            names = ", ".join(entry["name"] for entry in record["not_covered"])
            yield Row(what, f"{record['exactness']}, flagged: {names}", bool(names))
            continue
        dump = companion.dump(manifest["name"], record["dump"])
        different = difference(dump, dump_again(guest, record["dump"]))
        sequences = sequence_difference(guest, record["database"], record["sequences"])
        good = record["exactness"] == "exact" and not different and not sequences
        found = f"{record['exactness']}, dump {'differs from' if different else '=='} dump of the recovered database"
        found += f" ({size(len(dump))}"
        if record["sequences"]:
            found += f", {len(record['sequences'])} sequences" + (" differ" if sequences else "")
        yield Row(what, found + ")", good, "\n".join(part for part in (record["reason"], different, sequences) if part))
