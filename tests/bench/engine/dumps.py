# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a second dump of a database adds after some of its rows changed. A real PostgreSQL, and pg_dump as the agent runs it."""

import pathlib
import shutil
import subprocess

from support.scratch import run, say, wait_until

PROGRAMS = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parts[4]), default=None)
POSTGRES = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"}
ROWS = 1_400_000
# Words, numbers and times, as shops have them: some 200 MB of dump.
SCHEMA = f"""
CREATE TABLE orders (id int PRIMARY KEY, customer int, placed timestamptz, total numeric(10, 2), note text);
INSERT INTO orders SELECT n, n % 100003, timestamptz '2026-01-01' + n * interval '7 s', n % 100000 / 100.0,
  md5(n::text) || ' ' || md5((n * 31)::text) || ' ' || repeat('delivered ', n % 5) FROM generate_series(1, {ROWS}) n;
"""
# Of each a hundredth of the rows.
CHANGES = {
    "the newest 1 % of the rows changed": f"UPDATE orders SET total = total + 1 WHERE id > {ROWS} * 0.99",
    "1 % more rows": "INSERT INTO orders SELECT id + 10000000, customer, placed, total, md5(note) FROM orders"
                     f" WHERE id <= {ROWS} * 0.01",
    "1 % of the rows, all over the table": "UPDATE orders SET total = total + 1 WHERE id % 100 = 7",
}


class Cluster:
    def __init__(self, directory):
        self.directory = directory
        self.data = directory / "data"
        shutil.chown(directory, "postgres", "postgres")
        self.connection = ["-h", str(directory), "-p", "6548"]
        run([PROGRAMS / "initdb", "-D", self.data, "-E", "UTF8", "--locale=C", "-A", "trust", "-N"], 120, **POSTGRES)

    def __enter__(self):
        command = [PROGRAMS / "postgres", "-D", self.data, "-p", "6548", "-k", self.directory, "-c", "listen_addresses="]
        command += ["-c", "fsync=off", "-c", "autovacuum=off"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **POSTGRES)
        ready = [PROGRAMS / "pg_isready", "-q", *self.connection]
        wait_until(lambda: run(ready, 10, check=False).returncode == 0, 60, "PostgreSQL starts")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def sql(self, text):
        run([PROGRAMS / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", *self.connection, "-d", "postgres"], 600, input=text, **POSTGRES)

    def dump(self, path):
        with open(path, "wb") as output:
            run([PROGRAMS / "pg_dump", *self.connection, "-d", "postgres"], 600, stdout=output, text=False, **POSTGRES)
        return path


def measure(scratch, build):
    """Markdown: what each dump added, as a part of the first."""
    scratch = scratch / "dumps"
    scratch.mkdir(mode=0o755)
    run(["ninja", "-C", build, "tests/bench/bench-store-dumps"], 600)
    (scratch / "cluster").mkdir()
    with Cluster(scratch / "cluster") as cluster:
        say("filling a database")
        cluster.sql(SCHEMA)
        dumps = [cluster.dump(scratch / "first.sql")]
        for number, statement in enumerate(CHANGES.values()):
            cluster.sql(statement)
            dumps.append(cluster.dump(scratch / f"{number}.sql"))
    said = run([build / "tests/bench/bench-store-dumps", scratch / "repository", *dumps], 600).stdout
    rows = [line.split() for line in said.splitlines()]
    lines = ["### Dumps", "", "| | dump MB | added MB | of the first | s |", "|---|---:|---:|---:|---:|"]
    for title, (size, stored, seconds) in zip(["the first dump", *CHANGES], rows):
        part = int(stored) / int(rows[0][1])
        lines.append(f"| {title} | {int(size) / 1e6:.0f} | {int(stored) / 1e6:.1f} | {part:.1%} | {float(seconds):.2f} |")
    shutil.rmtree(scratch)
    return "\n".join(lines) + "\n"
