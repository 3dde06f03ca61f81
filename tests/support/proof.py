# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is a dump what the database in the block snapshot was? Dumped again after its recovery, the two must be equal.

Three things differ without telling anything, and are taken out of both sides first:
- sequence values and AUTO_INCREMENT: neither server's sequences belong to a snapshot, so a dump reads later ones than
  its rows. PostgreSQL's are compared separately, with the values that the report attests.
- the random key of pg_dump's \\restrict.
"""

import difflib
import re
import shlex

from .scratch import Failure

IGNORED = (
    (re.compile(rb"^SELECT pg_catalog\.setval\(.*\);$", re.MULTILINE), b""),
    (re.compile(rb"^\\(un)?restrict \w+$", re.MULTILINE), b""),
    (re.compile(rb" AUTO_INCREMENT=\d+"), b""),
)


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
    tool = (
        "mariadb-dump --no-defaults --socket=/run/mysqld/mysqld.sock --default-character-set=utf8mb4 --single-transaction"
        " --skip-lock-tables --quick --hex-blob --skip-dump-date --no-tablespaces --skip-ssl "
    )
    if database == "@system":
        return tool + "--insert-ignore --system=users,udfs,servers"
    return tool + "--order-by-primary --routines --triggers --events -- " + shlex.quote(database)


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
