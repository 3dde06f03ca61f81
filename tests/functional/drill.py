#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drills without a guest: servers of this host recover what crashed servers have left in an image, and are compared with dumps.

drill.py STILLPOINT DUMP-DRIVER
"""

import json
import os
import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.documents import reseal  # noqa: E402
from support.scratch import SKIPPED, run, say, scratch_directory, unwind_on_signals  # noqa: E402
from support.servers import MariaDb, PostgreSql  # noqa: E402

PROGRAM = DRIVER = None
TIME_LIMIT = 120
DRILL_FAILED = 13  # docs/man/stillpoint.1
POSTGRESQL, MARIADB = "postgresql/15-main/shop", "mariadb/default/forum"
DATA = {POSTGRESQL: "srv/pg/data", MARIADB: "var/lib/mysql"}

# What a hostile guest would leave for whoever starts a server on its files.
HOSTILE = """
archive_mode = on
archive_command = 'touch {mark}'
shared_preload_libraries = 'evil'
restore_command = 'touch {mark}'
listen_addresses = '*'
"""


class Drill(unittest.TestCase):
    scratch = None
    name = ""

    @classmethod
    def setUpClass(cls):
        root = cls.scratch / "root"
        postgresql, mariadb = PostgreSql(cls.scratch, 1), MariaDb(cls.scratch, 1)
        try:
            cls.versions = {POSTGRESQL: postgresql.sql("SHOW server_version"), MARIADB: mariadb.sql("SELECT VERSION()")}
            postgresql.sql("CREATE DATABASE shop")
            postgresql.sql("CREATE TABLE orders (id serial PRIMARY KEY, what text UNIQUE)", "shop")
            postgresql.sql("INSERT INTO orders (what) SELECT 'thing ' || g FROM generate_series(1, 5000) g", "shop")
            mariadb.sql("CREATE DATABASE forum")
            mariadb.sql("CREATE TABLE posts (id INT PRIMARY KEY AUTO_INCREMENT, said TEXT); INSERT INTO posts (said) SELECT seq FROM seq_1_to_5000", "forum")
            dumps = {POSTGRESQL: cls.scratch / "shop.sql", MARIADB: cls.scratch / "forum.sql"}
            run(["pg_dump", "-d", postgresql.conninfo("shop"), "-f", dumps[POSTGRESQL]], TIME_LIMIT)
            options = ["--no-defaults", f"--socket={mariadb.socket}", "--single-transaction", "--hex-blob", "--skip-dump-date",
                       "--no-tablespaces", "--order-by-primary", "--routines", "--triggers", "--events", "--default-character-set=utf8mb4"]
            dumps[MARIADB].write_text(run(["mariadb-dump", *options, "forum"], TIME_LIMIT).stdout, encoding="utf-8")
        finally:
            # As a power cut would.
            postgresql.stop()
            mariadb.stop()
        for server, dump in ((postgresql, POSTGRESQL), (mariadb, MARIADB)):
            (root / DATA[dump]).parent.mkdir(parents=True)
            shutil.move(server.directory / "data", root / DATA[dump])
        (root / DATA[POSTGRESQL] / "postgresql.auto.conf").write_text(HOSTILE.format(mark=cls.scratch / "owned"), encoding="utf-8")
        (root / DATA[POSTGRESQL] / "standby.signal").touch()
        wal = root / DATA[POSTGRESQL] / "pg_wal"
        shutil.move(wal, root / "srv/wal")
        wal.symlink_to("/srv/wal")
        cls.image = cls.scratch / "image"
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, cls.image, "700M"], TIME_LIMIT)
        shutil.rmtree(root)
        cls.call("backup", "db", "--disk-image", f"vda={cls.image}")
        named = [f"{name}={path}" for name, path in dumps.items()]
        stored = run([DRIVER, cls.scratch / "repository", "dumps", *named], TIME_LIMIT).stdout.strip()
        cls.dumps = cls.manifest(stored)["dumps"]

    @classmethod
    def call(cls, *arguments, code=0):
        environment = {"PATH": os.environ["PATH"], "STILLPOINT_REPOSITORY": str(cls.scratch / "repository"), "TMPDIR": str(cls.scratch)}
        done = run([PROGRAM, *arguments], TIME_LIMIT, check=False, env=environment)
        if done.returncode != code:
            raise AssertionError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done

    @classmethod
    def path(cls, name):
        domain, _at, time = name.partition("@")
        return cls.scratch / "repository/manifests" / domain / time

    @classmethod
    def manifest(cls, name):
        return json.loads(cls.path(name).read_text(encoding="utf-8"))["manifest"]

    def still_point(self, dumps, **report):
        """The image's still point, as an agent's report and these dumps make it one of a guest."""
        name = json.loads(self.call("list", "db", "--json").stdout)[-1]["name"]

        def change(manifest):
            when = manifest["instant"]
            manifest["dumps"] = dumps
            manifest["report"] = {
                "format": 1, "id": manifest["id"], "prepared_at": when, "barrier_begun_at": when, "barrier_at": when, "quiesced": True,
                "databases": [
                    {"engine": engine, "instance": instance, "database": database, "server_version": self.versions[dump], "dump": dump,
                     "exactness": "exact", "data_directory": "/" + DATA[dump], **report}
                    for dump in DATA for engine, instance, database in [dump.split("/")]
                ],
            }

        reseal(self.path(name), change)
        return name

    def drill(self, name, *arguments, code=0):
        record = json.loads(self.call("drill", "--no-boot", "--json", name, *arguments, code=code).stdout)
        self.assertEqual(record["passed"], code == 0)
        self.assertFalse((self.scratch / "owned").exists(), "a command of the guest's was run")
        self.assertEqual(list(self.scratch.glob("stillpoint-drill-*")), [])
        return {(step["kind"], step["name"]): step for step in record["steps"]}

    def test_1_recovered_they_are_what_was_dumped(self):
        name = self.still_point(self.dumps)
        steps = self.drill(name)
        for dump in DATA:
            for kind in ("database", "dump", "check"):
                self.assertEqual(steps[(kind, dump)]["outcome"], "passed", steps)
        self.assertEqual(steps[("disk", "vda")]["outcome"], "passed", steps)
        self.assertIn(steps[("file-system", "vda")]["outcome"], ("passed", "skipped"), steps)
        self.assertIn("pg_amcheck", steps[("check", POSTGRESQL)]["detail"])
        listed = json.loads(self.call("list", "db", "--json").stdout)[-1]["drill"]
        self.assertEqual((listed["passed"], listed["booted"]), (True, False))
        self.assertIn("recovered without a guest", self.call("show", name).stdout)

    def test_2_a_swapped_dump_differs(self):
        first, second = self.dumps
        name = self.still_point([{**first, "map": second["map"]}, {**second, "map": first["map"]}])
        steps = self.drill(name, "--quick", code=DRILL_FAILED)
        for dump in DATA:
            self.assertEqual(steps[("database", dump)]["outcome"], "passed", steps)
            self.assertIn("differs in line", steps[("dump", dump)]["detail"])
        self.assertIn("failed ", self.call("list", "db").stdout)

    def test_3_what_this_host_cannot_recover_has_not_passed(self):
        name = self.still_point(self.dumps, server_version="9.9")
        steps = self.drill(name, "--quick", code=DRILL_FAILED)
        self.assertIn("this host has no", steps[("database", MARIADB)]["detail"])

    def test_4_a_file_system_that_is_damaged(self):
        image = self.scratch / "small"
        run(["mke2fs", "-q", "-F", "-t", "ext4", image, "16M"], TIME_LIMIT)
        self.call("backup", "small", "--disk-image", f"vda={image}")
        steps = self.drill("small")
        if steps[("file-system", "vda")]["outcome"] == "skipped":
            self.skipTest(steps[("file-system", "vda")]["detail"])
        run(["debugfs", "-w", "-R", "set_inode_field <11> links_count 9", image], TIME_LIMIT)
        self.call("backup", "small", "--disk-image", f"vda={image}")
        self.assertIn("finds it damaged", self.drill("small", code=DRILL_FAILED)[("file-system", "vda")]["detail"])

    def test_5_what_cannot_be_drilled(self):
        self.call("drill", code=2)
        self.call("drill", "nobody", code=4)
        self.call("drill", "db", "--no-boot", "--answer-within", "long", code=2)
        self.call("drill", "db", "--no-boot", "--keep", code=2)
        done = self.call("drill", "db", code=2)
        self.assertIn("--no-boot", done.stderr)


def main():
    global PROGRAM, DRIVER
    PROGRAM, DRIVER = (os.path.abspath(path) for path in sys.argv[1:3])
    del sys.argv[1:3]
    unwind_on_signals()
    contained = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    if os.geteuid() != 0 or run(contained, 30, check=False).returncode != 0:
        say("skipped: containers are not permitted here")
        sys.exit(SKIPPED)
    with scratch_directory() as scratch:
        scratch.chmod(0o755)
        Drill.scratch = scratch
        run([PROGRAM, "--repository", scratch / "repository", "init"], TIME_LIMIT)
        unittest.main(verbosity=2)


main()
