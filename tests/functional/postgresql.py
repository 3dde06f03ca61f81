#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""postgresql.py DRIVER: the PostgreSQL engine on a real cluster under write load.

A "crash copy" is the data directory copied while every process of the server is stopped: what a block snapshot of a
frozen file system holds. A second server recovers it, and its dump is compared with the engine's.
"""
import glob
import itertools
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

DRIVER = sys.argv.pop(1) if len(sys.argv) > 1 else ""
WEIRD = 'we ird"é'
WEIRD_DUMP = "we%20ird%22%C3%A9"
PORT = "6543"
OPTIONS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "autovacuum": "off",
    "max_prepared_transactions": "10",
    "client_connection_check_interval": "100ms",
    # Asynchronous commits that stay in memory until somebody flushes them.
    "synchronous_commit": "off",
    "wal_writer_delay": "10s",
    "checkpoint_timeout": "1h",
    "wal_keep_size": "64MB",
    "min_wal_size": "2MB",
    "shared_buffers": "32MB",
    "log_line_prefix": "'%a|'",
    "lc_messages": "C",
}

SCHEMA = """
CREATE TABLE stock (id int PRIMARY KEY, amount int NOT NULL);
INSERT INTO stock SELECT g, 0 FROM generate_series(1, 40) g;
CREATE TABLE customers (id serial PRIMARY KEY, name text);
INSERT INTO customers (name) SELECT 'c' || g FROM generate_series(1, 50) g;
CREATE TABLE orders (id bigserial PRIMARY KEY, customer int REFERENCES customers, at timestamptz DEFAULT now());
CREATE TABLE order_lines (id bigserial PRIMARY KEY, "order" bigint REFERENCES orders, item int REFERENCES stock);
CREATE TABLE journal (bucket int, what text) PARTITION BY RANGE (bucket);
CREATE TABLE journal_a PARTITION OF journal FOR VALUES FROM (0) TO (5);
CREATE TABLE journal_b PARTITION OF journal FOR VALUES FROM (5) TO (10);
CREATE TABLE audit (id bigserial, what text);
CREATE UNLOGGED TABLE cache (k int);
INSERT INTO cache VALUES (1);
CREATE TABLE emptied (what text);
INSERT INTO emptied SELECT 'many' FROM generate_series(1, 500);
SELECT lo_from_bytea(4711, '\\x00010203');
CREATE EXTENSION hstore;
CREATE TABLE tagged (tags hstore);
INSERT INTO tagged VALUES ('colour=>red');
"""

# Locks its tables in another order than they were created in: the engine has to learn it.
WRITER = """DO $$ BEGIN LOOP
  INSERT INTO audit (what) VALUES ('begin {n}');
  INSERT INTO journal VALUES ((random() * 9.98)::int % 10, 'w{n}');
  WITH o AS (INSERT INTO orders (customer) VALUES (1 + (random() * 49)::int % 50) RETURNING id)
    INSERT INTO order_lines ("order", item) SELECT id, 1 + (random() * 39)::int % 40 FROM o;
  UPDATE stock SET amount = amount + 1 WHERE id = {n};
  IF {n} = 1 AND random() < 0.5 THEN PERFORM lo_put(4711, (random() * 1000)::int, '\\xff'); END IF;
  COMMIT;
  PERFORM pg_sleep(0.004);
END LOOP; END $$"""

WEIRD_WRITER = """DO $$ BEGIN LOOP
  INSERT INTO "Ä b" (t) VALUES ('x'); INSERT INTO a VALUES (1); COMMIT; PERFORM pg_sleep(0.004);
END LOOP; END $$"""

# Between its two locks it waits for somebody who wants the first one.
INSERT_WHEN_WAITED_FOR = """DO $$ BEGIN
  INSERT INTO early_one VALUES (1);
  WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'early_one'::regclass)
    LOOP PERFORM pg_sleep(0.002); END LOOP;
  INSERT INTO late_one VALUES (1);
END $$"""


def run_as():
    return {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/",
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}}


class Server:
    """A postmaster on a data directory."""

    def __init__(self, programs, data, sockets, **settings):
        self.programs, self.data, self.sockets = programs, data, sockets
        for directory in sockets:
            os.makedirs(directory, exist_ok=True)
            shutil.chown(directory, "postgres", "postgres")
        settings = {**OPTIONS, **settings, "unix_socket_directories": "'" + ",".join(sockets) + "'"}
        with open(data + "/postgresql.auto.conf", "w") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in settings.items())
        self.log_path = data + ".log"
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen([programs + "/postgres", "-D", data, "-p", PORT], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True, **run_as())
        deadline = time.monotonic() + 60
        while subprocess.run([programs + "/pg_isready", "-q", "-h", sockets[0], "-p", PORT], timeout=20).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.log_path, errors="replace") as log:
                    raise RuntimeError("the server does not start:\n" + log.read()[-2000:])
            time.sleep(0.03)

    def command(self, database, *arguments):
        return [self.programs + "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.sockets[0], "-p",
                PORT, "-d", "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'", *arguments]

    def sql(self, statement, database="postgres"):
        return subprocess.run(self.command(database, "-c", statement), check=True, capture_output=True, text=True,
                              timeout=60, **run_as()).stdout.strip()

    def dump(self, database):
        return subprocess.run([self.programs + "/pg_dump", "--format=plain", "--no-unlogged-table-data", "-h",
                               self.sockets[0], "-p", PORT, "-d", "dbname='" + database + "'"], check=True,
                              capture_output=True, timeout=60, **run_as()).stdout

    def processes(self):
        """The postmaster and all its children."""
        found = [self.process.pid]
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path) as stat:
                    fields = stat.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid:
                found.append(int(path.split("/")[2]))
        return found

    def signal_all(self, number):
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stop(self):
        self.signal_all(signal.SIGCONT)
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)
        self.log.close()


class Transaction:
    """A session that stays open between statements."""

    def __init__(self, server, database):
        self.process = subprocess.Popen(server.command(database), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, **run_as())

    def run(self, statements):
        self.process.stdin.write(statements + ";\n\\echo done\n")
        self.process.stdin.flush()
        while (line := self.process.stdout.readline()) != "done\n":
            if not line:
                raise RuntimeError("the session ended")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


class Driver:
    def __init__(self, *arguments):
        self.process = subprocess.Popen([DRIVER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1)
        self.discovered = self.answer()

    def answer(self):
        if not select.select([self.process.stdout], [], [], 90)[0]:
            raise RuntimeError("the driver does not answer")
        return json.loads(self.process.stdout.readline())

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        return self.answer()

    def must(self, command):
        answer = self.ask(command)
        if not answer["ok"]:
            raise AssertionError(command + ": " + answer["message"])
        return answer

    def report(self):
        return {entry["database"]: entry for entry in self.must("report")["databases"]}

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def comparable(dump):
    """Without the random key of newer pg_dumps and the values of sequences, which no snapshot holds."""
    return [line for line in dump.split(b"\n")
            if not line.startswith((b"\\restrict ", b"\\unrestrict ", b"SELECT pg_catalog.setval("))]


def difference(dump, other):
    """The first lines where they differ, for a short message."""
    a, b = comparable(dump), comparable(other)
    return [] if a == b else [pair for pair in itertools.zip_longest(a, b) if pair[0] != pair[1]][:3]


class PostgreSqlTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.mkdtemp(prefix="stillpoint-postgresql-", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        os.chmod(cls.scratch, 0o711)
        cls.programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: float(p.split("/")[4]))[-1]
        data = cls.scratch + "/data"
        os.mkdir(data, 0o700)
        shutil.chown(data, "postgres", "postgres")
        subprocess.run([cls.programs + "/initdb", "-D", data, "-A", "peer", "-E", "UTF8", "--no-sync",
                        "--wal-segsize=1"], check=True,
                       stdout=subprocess.DEVNULL, timeout=120, **run_as())
        cls.server = Server(cls.programs, data, [cls.scratch + "/sockets", cls.scratch + "/more"])
        cls.addClassCleanup(cls.server.stop)
        cls.server.sql("CREATE DATABASE app")
        cls.server.sql('CREATE DATABASE "we ird""é"')
        cls.server.sql(SCHEMA, "app")
        cls.server.sql('CREATE TABLE "Ä b" (id serial, t text); CREATE TABLE a (i int)', WEIRD)
        os.symlink(cls.scratch + "/sockets", cls.scratch + "/other-name")
        cls.times = []

    @classmethod
    def tearDownClass(cls):
        print("quiesce, lock (ms), attempts: " +
              ", ".join(f"{total:.0f} {lock:.0f} {attempts}" for total, lock, attempts in cls.times), file=sys.stderr)

    def run(self, result=None):
        begun = time.monotonic()
        super().run(result)
        print(f"{time.monotonic() - begun:.1f} s {self._testMethodName}", file=sys.stderr)

    def driver(self, *arguments):
        driver = Driver(":".join(self.scratch + d for d in ("/sockets", "/other-name", "/more", "/missing")),
                        *arguments)
        self.addCleanup(driver.close)
        # One cluster, whichever of its sockets and names is looked at.
        self.assertEqual((driver.discovered["count"], driver.discovered["warnings"]), (1, []))
        return driver

    def writers(self, writers):
        running = [subprocess.Popen(self.server.command(database, "-c", statement), stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, **run_as()) for database, statement in writers]

        def end():
            for writer in running:
                self.assertIsNone(writer.poll(), "a writer failed")
                writer.kill()
                writer.wait()
            self.wait_until("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %'", "0")

        self.addCleanup(end)
        time.sleep(0.3)

    def load(self):
        self.writers([("app", WRITER.format(n=n)) for n in range(1, 7)] + [(WEIRD, WEIRD_WRITER)] * 2)

    def transaction(self, database="app"):
        transaction = Transaction(self.server, database)
        self.addCleanup(transaction.close)
        return transaction

    def wait_until(self, query, value, database="postgres"):
        deadline = time.monotonic() + 30
        while (now := self.server.sql(query, database)) != value:
            self.assertLess(time.monotonic(), deadline, f"{query} stays {now}")
            time.sleep(0.02)

    def quiesce(self, driver, limit=20000):
        answer = driver.must(f"quiesce {limit}")
        entry = driver.report()["app"]
        self.times.append((answer["ms"], entry["acquired_us"] / 1000, entry["attempts"]))

    def crash_copy(self, server=None):
        server = server or self.server
        copy = tempfile.mkdtemp(prefix="copy-", dir=self.scratch)
        self.addCleanup(shutil.rmtree, copy, ignore_errors=True)
        server.signal_all(signal.SIGSTOP)
        try:
            subprocess.run(["cp", "-a", "--reflink=auto", server.data, copy], check=True, timeout=60)
        finally:
            server.signal_all(signal.SIGCONT)
        os.chmod(copy, 0o711)
        os.remove(copy + "/data/postmaster.pid")
        return copy

    def recover(self, copy, **settings):
        server = Server(self.programs, copy + "/data", [copy + "/s"], fsync="off", **settings)
        self.addCleanup(server.stop)
        return server

    def take_dump(self, driver, part):
        path = self.scratch + "/dump"
        driver.must(f"dump postgresql/port-{PORT}/{part} {path}")
        with open(path, "rb") as dump:
            return dump.read()

    def deadlocks(self):
        with open(self.server.log_path, errors="replace") as log:
            return log.read().count("deadlock detected")

    def locks(self):
        return "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) " \
               "WHERE a.application_name = 'stillpoint' AND l.mode <> 'ExclusiveLock'"

    def test_dump_equals_dump_of_recovered_copy(self):
        self.load()
        self.transaction().run("CREATE TEMPORARY TABLE passing AS SELECT 1")
        for _ in range(3):
            driver = self.driver("postgres")
            driver.must("prepare")
            self.quiesce(driver)
            time.sleep(0.2)
            copy = self.crash_copy()
            driver.must("release")
            report = driver.report()
            dumps = {name: self.take_dump(driver, part) for name, part in (("app", "app"), (WEIRD, WEIRD_DUMP))}
            globals_dump = self.take_dump(driver, "@globals")
            driver.must("finish")
            self.assertEqual(set(report), {"", "app", WEIRD})
            recovered = self.recover(copy)
            for name, entry in report.items():
                self.assertEqual((entry["exactness"], entry["reason"]), ("exact", ""), entry)
            for name, dump in dumps.items():
                self.assertEqual(difference(dump, recovered.dump(name)), [])
                sequences = report[name]["sequences"]
                self.assertTrue(sequences)
                for sequence in sequences:
                    value = recovered.sql(f"SELECT last_value, is_called FROM {sequence['name']}", name)
                    self.assertEqual(value, f"{sequence['last_value']}|{'t' if sequence['is_called'] else 'f'}")
            self.assertIn({"kind": "unlogged-table", "name": "public.cache", "count": 1}, report["app"]["not_covered"])
            self.assertEqual(report["app"]["position"]["large_objects"], 1)
            self.assertIn(b"CREATE ROLE postgres", globals_dump)
        with open(self.server.log_path, errors="replace") as log:
            self.assertNotRegex(log.read(), r"(?m)^(?!stillpoint\|).*deadlock detected")

    def test_a_check_finds_an_index_that_its_table_is_not_in(self):
        half = "CREATE OR REPLACE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 / {}; END'"
        self.server.sql("CREATE DATABASE checked")
        self.addCleanup(self.server.sql, "DROP DATABASE checked WITH (FORCE)")
        for statement in (half.format(2), "CREATE TABLE t AS SELECT generate_series(1, 1000) i", "CREATE INDEX odd ON t (half(i))"):
            self.server.sql(statement, "checked")
        driver = self.driver()
        driver.must("prepare")
        self.quiesce(driver)
        driver.must("release")
        check = f"check postgresql/port-{PORT}/checked {self.scratch}/check"
        self.assertEqual(driver.must(check)["tool"], "pg_amcheck")
        with open(self.scratch + "/check", "rb") as found:
            self.assertEqual(found.read(), b"")
        self.server.sql(half.format(3), "checked")
        answer = driver.ask(check)
        self.assertFalse(answer["ok"], answer)
        with open(self.scratch + "/check", "rb") as found:
            self.assertIn(b"lacks matching index tuple", found.read())
        answer = driver.ask(f"check postgresql/port-{PORT}/@globals {self.scratch}/check")
        self.assertNotIn("tool", answer)
        driver.must("finish")

    def test_without_the_barrier_the_dump_differs(self):
        self.load()
        driver = self.driver("postgres", "no-barrier")
        driver.must("prepare")
        driver.must("quiesce")
        time.sleep(0.2)
        copy = self.crash_copy()
        driver.must("release")
        self.assertEqual(driver.report()["app"]["mode"], "none")
        dump = self.take_dump(driver, "app")
        recovered = self.recover(copy).dump("app")
        self.assertNotEqual(difference(dump, recovered), [])
        self.assertGreater(recovered.count(b"\tbegin "), dump.count(b"\tbegin "))

    def test_truncate_after_the_barrier_cannot_empty_the_dump(self):
        driver = self.driver()
        driver.must("prepare")
        self.quiesce(driver)
        driver.must("release")
        # pg_dump has begun by itself; a TRUNCATE that comes before it has its locks makes it fail, not dump nothing.
        self.wait_until("SELECT count(*) > 1 FROM pg_locks WHERE mode = 'AccessShareLock' AND relation = "
                        "'emptied'::regclass", "t", "app")
        truncate = subprocess.Popen(self.server.command("app", "-c", "TRUNCATE emptied"), **run_as())
        self.wait_until("SELECT count(*) FROM pg_locks WHERE NOT granted", "1")
        dump = self.take_dump(driver, "app")
        self.assertEqual(dump.count(b"\nmany"), 500)
        self.assertIsNone(truncate.poll())
        driver.must("finish")
        self.assertEqual(truncate.wait(30), 0)

    def test_a_long_transaction_skews_its_database_only(self):
        holder = self.transaction()
        holder.run("BEGIN; UPDATE stock SET amount = -1 WHERE id = 40")
        driver = self.driver()
        driver.must("prepare")
        self.quiesce(driver, 3000)
        report = driver.report()
        driver.must("release")
        holder.run("ROLLBACK")
        self.assertEqual((report["app"]["exactness"], report["app"]["mode"]), ("skewed", "none"))
        self.assertRegex(report["app"]["reason"], r"process \d+ \('psql'\) has held (public\.)?stock")
        self.assertEqual(report[WEIRD]["exactness"], "exact")
        self.assertIn(b"CREATE TABLE public.stock", self.take_dump(driver, "app"))

    def test_a_transaction_that_ends_in_time_leaves_it_exact(self):
        holder = self.transaction()
        holder.run("BEGIN; UPDATE stock SET amount = 77 WHERE id = 40")
        driver = self.driver()
        driver.must("prepare")
        driver.process.stdin.write("quiesce\n")
        self.wait_until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted", "t")
        holder.run("COMMIT")
        answer = driver.answer()
        self.assertTrue(answer["ok"], answer)
        self.assertEqual(driver.report()["app"]["exactness"], "exact")
        driver.must("release")
        self.assertIn(b"\n40\t77\n", self.take_dump(driver, "app"))

    def test_exact_can_be_required(self):
        holder = self.transaction()
        holder.run("BEGIN; UPDATE stock SET amount = -1 WHERE id = 40")
        driver = self.driver("exact=require")
        for prepare in ("prepare", "prepare-without-dumps"):
            driver.must(prepare)
            answer = driver.ask("quiesce 2000")
            self.assertFalse(answer["ok"])
            self.assertIn("exact=require", answer["message"])
            self.assertRegex(answer["message"], r"app.*process \d+ \('psql'\) has held (public\.)?stock")
            self.wait_until(self.locks(), "0")
            driver.must("finish")
        holder.run("ROLLBACK")
        for prepare in ("prepare", "prepare-without-dumps"):
            driver.must(prepare)
            self.quiesce(driver)
            driver.must("release")
            driver.must("finish")

    def test_exact_can_be_switched_off(self):
        holder = self.transaction()
        holder.run("BEGIN; UPDATE stock SET amount = -1 WHERE id = 40")
        driver = self.driver("exact=off")
        driver.must("prepare")
        self.quiesce(driver, 2000)
        self.assertEqual(self.server.sql(self.locks() + " AND l.mode = 'ShareLock'"), "0")
        driver.must("release")
        holder.run("ROLLBACK")
        entry = driver.report()["app"]
        self.assertEqual((entry["exactness"], entry["mode"], entry["attempts"]), ("skewed", "none", 1))
        self.assertIn("exact=off", entry["reason"])
        self.assertIn(b"CREATE TABLE public.stock", self.take_dump(driver, "app"))

    def test_the_lock_order_is_kept(self):
        """Tonight's barrier need not deadlock again to know what last night's did."""
        self.server.sql("CREATE TABLE late_one (i int); CREATE TABLE early_one (i int)", "app")
        self.addCleanup(self.server.sql, "DROP TABLE late_one, early_one", "app")
        driver = self.driver()
        deadlocks = [self.deadlocks()]
        for _ in range(2):
            driver.must("prepare")
            application = subprocess.Popen(self.server.command("app", "-c", INSERT_WHEN_WAITED_FOR), **run_as())
            self.wait_until("SELECT count(*) FROM pg_locks WHERE relation = 'early_one'::regclass", "1", "app")
            driver.must("quiesce")
            self.assertEqual(application.wait(30), 0)
            entry = driver.report()["app"]
            self.assertEqual(entry["exactness"], "exact", entry)
            deadlocks.append(self.deadlocks())
            driver.must("release")
            driver.must("finish")
        self.assertGreater(deadlocks[1], deadlocks[0])
        self.assertEqual(deadlocks[2], deadlocks[1])

    def test_a_lock_table_that_is_too_small(self):
        copy = self.crash_copy()
        server = self.recover(copy, max_locks_per_transaction="10", max_connections="20", max_prepared_transactions="0")
        for first in range(0, 3000, 250):
            server.sql(f"DO $$ BEGIN FOR n IN {first}..{first + 249} LOOP "
                       "EXECUTE format('CREATE TABLE many_%s (i int)', n); COMMIT; END LOOP; END $$", "app")
        driver = Driver(copy + "/s")
        self.addCleanup(driver.close)
        driver.must("prepare")
        driver.must("quiesce")
        driver.must("release")
        report = driver.report()
        self.assertNotEqual(report["app"]["exactness"], "exact")
        self.assertIn("max_locks_per_transaction", report["app"]["reason"])
        self.assertEqual(report[WEIRD]["exactness"], "exact", report[WEIRD])

    def test_a_role_with_few_rights(self):
        """What stillpoint-agent(8) says has to be granted is enough, and the dump as exact."""
        copy = self.crash_copy()
        server = self.recover(copy, unix_socket_permissions="0777")
        server.sql("SELECT lo_unlink(4711)", "app")
        server.sql("CREATE ROLE nobody LOGIN; GRANT pg_read_all_data, pg_write_all_data, pg_monitor TO nobody")
        server.sql("CREATE DATABASE objects")
        server.sql("SELECT lo_from_bytea(1, 'x')", "objects")
        driver = Driver(copy + "/s", "user=nobody")
        self.addCleanup(driver.close)
        answer = driver.ask("prepare")
        self.assertFalse(answer["ok"])
        self.assertIn("lacks membership in pg_checkpoint, SET on parameter deadlock_timeout", answer["message"])
        server.sql("GRANT pg_checkpoint TO nobody; GRANT SET ON PARAMETER deadlock_timeout, lc_messages TO nobody")
        for change in ("SELECT 1", "CREATE FUNCTION hidden() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE SCHEMA late"):
            driver.must("prepare")
            driver.must("quiesce")
            blocked = subprocess.run(server.command("app", "-c", "SET lock_timeout = '200ms'; INSERT INTO audit VALUES (1)"),
                                     check=False, capture_output=True, timeout=60, **run_as())
            self.assertIn(b"lock timeout", blocked.stderr)
            server.sql(change, "app")
            driver.must("release")
            report = driver.report()
            entry = report["app"]
            self.assertEqual(entry["exactness"], "exact" if change == "SELECT 1" else "skewed", entry)
            if change != "SELECT 1":
                self.assertIn("only a superuser", entry["reason"])
            self.assertIn("large objects", report["objects"]["reason"])
            self.assertEqual((report["objects"]["exactness"], report[""]["exactness"]), ("failed", "exact"), report[""])
            dump = self.take_dump(driver, "app")
            self.assertIn(b"CREATE TABLE public.stock", dump)
            if change == "SELECT 1":
                self.assertEqual(difference(dump, server.dump("app")), [])
                self.assertIn(b"CREATE ROLE nobody", self.take_dump(driver, "@globals"))
            driver.must("finish")

    def test_schema_changes_around_the_barrier(self):
        driver = self.driver()
        driver.must("prepare")
        self.server.sql("CREATE TABLE late (i int)", "app")
        change = self.transaction()
        change.run("BEGIN; CREATE FUNCTION hidden() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        self.quiesce(driver)
        late = "SELECT mode FROM pg_locks WHERE relation = 'late'::regclass AND mode LIKE '%Share%' ORDER BY 1"
        self.assertEqual(self.server.sql(late, "app"), "AccessShareLock\nShareLock")
        self.assertEqual(driver.report()["app"]["exactness"], "exact")
        change.run("COMMIT")
        driver.must("release")
        entry = driver.report()["app"]
        self.assertEqual(entry["exactness"], "skewed")
        self.assertIn("committed inside the barrier", entry["reason"])
        self.server.sql("DROP FUNCTION hidden()", "app")

        driver = self.driver()
        driver.must("prepare")
        change = self.transaction()
        change.run("BEGIN; CREATE TABLE never (i int)")
        self.quiesce(driver)
        change.run("ROLLBACK")
        driver.must("release")
        self.assertEqual(driver.report()["app"]["exactness"], "exact")

    def test_locks_lost_inside_the_barrier_are_told(self):
        self.server.sql("CREATE SEQUENCE leaving", "app")
        self.addCleanup(self.server.sql, "DROP SEQUENCE leaving", "app")
        drop = self.transaction()
        drop.run("BEGIN; DROP SEQUENCE leaving")
        driver = self.driver()
        driver.must("prepare")
        self.quiesce(driver)
        report = driver.report()
        self.assertEqual((report["app"]["exactness"], report["app"]["mode"]), ("skewed", "none"))
        self.assertIn("its sequences could not be read", report["app"]["reason"])
        self.assertEqual(report[WEIRD]["exactness"], "exact")
        driver.must("release")
        drop.run("ROLLBACK")
        self.assertIn(b"CREATE SEQUENCE public.leaving", self.take_dump(driver, "app"))

    def test_databases_that_are_not_held_are_told(self):
        self.server.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false")
        self.addCleanup(self.server.sql, "DROP DATABASE closed")
        driver = self.driver("postgres", "left out")
        driver.must("prepare")
        self.server.sql("CREATE DATABASE late")
        self.addCleanup(self.server.sql, "DROP DATABASE late")
        self.server.sql('CREATE DATABASE "left out"')
        self.addCleanup(self.server.sql, 'DROP DATABASE "left out"')
        self.quiesce(driver)
        driver.must("release")
        report = driver.report()
        self.assertEqual(set(report), {"", "app", WEIRD, "late"})
        self.assertEqual((report["late"]["exactness"], report["late"]["dump"]), ("failed", ""))
        self.assertIn("created after", report["late"]["reason"])
        self.assertEqual(report[""]["not_covered"], [{"kind": "excluded-database", "name": "postgres", "count": 1},
                                                     {"kind": "closed-database", "name": "closed", "count": 1}])

    def test_globals_that_cannot_be_read_do_not_fail_the_barrier(self):
        driver = self.driver()
        driver.must("prepare")
        holder = self.transaction()
        holder.run("BEGIN; LOCK TABLE pg_shseclabel IN ACCESS EXCLUSIVE MODE")
        self.quiesce(driver)
        entry = driver.report()[""]
        driver.must("release")
        holder.run("ROLLBACK")
        self.assertEqual(entry["exactness"], "skewed")
        self.assertIn("could not be compared", entry["reason"])

    def test_changed_globals_are_told(self):
        driver = self.driver()
        driver.must("prepare")
        self.server.sql("CREATE ROLE somebody")
        self.quiesce(driver)
        driver.must("release")
        self.assertEqual(driver.report()[""]["exactness"], "skewed")
        self.assertIn(b"CREATE ROLE somebody", self.take_dump(driver, "@globals"))
        self.server.sql("DROP ROLE somebody")

    def test_a_prepared_transaction_is_told(self):
        self.server.sql("BEGIN; UPDATE stock SET amount = 5 WHERE id = 39; PREPARE TRANSACTION 'in doubt'", "app")
        driver = self.driver()
        driver.must("prepare")
        self.quiesce(driver)
        driver.must("release")
        entry = driver.report()["app"]
        self.server.sql("ROLLBACK PREPARED 'in doubt'", "app")
        self.assertIn({"kind": "prepared-transaction", "name": "in doubt", "count": 1}, entry["not_covered"])
        self.assertEqual(entry["exactness"], "skewed")
        self.assertIn("in doubt", entry["reason"])

    def test_a_killed_agent_leaves_nothing_locked(self):
        driver = self.driver()
        driver.must("prepare")
        self.quiesce(driver)
        self.assertGreater(int(self.server.sql(self.locks())), 10)
        driver.process.kill()
        self.wait_until(self.locks(), "0")

    def test_a_rehearsal_that_hangs_costs_no_dump(self):
        def backends(database="app"):
            return [pid for pid in self.server.processes() if f" {database}" in title(pid) and "[local]" in title(pid)]

        def title(pid):
            try:
                with open(f"/proc/{pid}/cmdline") as line:
                    return line.read()
            except OSError:
                return ""

        driver = self.driver()
        end = time.monotonic() + 20
        while backends():  # of an agent that was killed before
            self.assertLess(time.monotonic(), end, "sessions are left")
        driver.process.stdin.write("prepare 8000\n")
        # The last database's sessions are opened, app's are waiting.
        while len(backends("we ird")) < 2:
            self.assertLess(time.monotonic(), end, "no session")
        found = backends()
        os.kill(found[0], signal.SIGSTOP)
        try:
            self.assertTrue(driver.answer()["ok"])
        finally:
            os.kill(found[0], signal.SIGCONT)
        # It was given up: the server ends it.
        end = time.monotonic() + 20
        while found[0] in backends():
            self.assertLess(time.monotonic(), end, "the session was not stopped in time")
        self.quiesce(driver)
        driver.must("release")
        self.assertEqual((driver.report()["app"]["exactness"], driver.report()["app"]["reason"]), ("exact", ""))

    def test_a_hung_server_costs_no_more_than_the_limit(self):
        driver = self.driver()
        driver.must("prepare")
        self.server.signal_all(signal.SIGSTOP)
        try:
            self.assertFalse(driver.ask("quiesce 500")["ok"])
            driver.must("release 500")
            driver.must("finish")
        finally:
            self.server.signal_all(signal.SIGCONT)
        self.wait_until(self.locks(), "0")

    def test_cancel_and_release_in_any_state(self):
        driver = self.driver()
        driver.must("release")
        driver.must("finish")
        driver.must("prepare")
        driver.must("cancel")
        self.assertIn("cancelled", driver.ask("quiesce")["message"])
        driver.must("release")
        driver.must("finish")
        self.wait_until(self.locks(), "0")
        self.assertFalse(driver.ask(f"dump postgresql/port-{PORT}/app /dev/null")["ok"])
        driver.must("prepare-without-dumps")
        driver.must("quiesce")
        self.assertEqual({entry["dump"] for entry in driver.report().values()}, {""})
        driver.must("release")
        self.wait_until(self.locks(), "0")

    def test_few_connections_are_shared_with_the_applications(self):
        copy = self.crash_copy()
        server = self.recover(copy, max_connections="10")  # 3 of them reserved
        driver = Driver(copy + "/s")
        self.addCleanup(driver.close)
        driver.must("prepare")
        used = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stillpoint'"
        self.assertEqual(server.sql(used), "3")
        driver.must("quiesce")
        driver.must("release")
        entries = list(driver.report().values())[1:]
        self.assertEqual([entry["exactness"] for entry in entries], ["exact", "failed", "failed"])
        for entry in entries[1:]:
            self.assertEqual((entry["dump"], entry["reason"][:19]), ("", "no connections left"))

    def test_a_cluster_without_the_database_postgres(self):
        copy = self.crash_copy()
        server = self.recover(copy)
        server.sql("DROP DATABASE postgres", "template1")
        driver = Driver(copy + "/s")
        self.addCleanup(driver.close)
        driver.must("prepare")
        driver.must("quiesce")
        driver.must("release")
        self.assertEqual({name: entry["exactness"] for name, entry in driver.report().items()},
                         {"": "exact", "app": "exact", WEIRD: "exact"})
        self.assertIn(b"CREATE ROLE postgres", self.take_dump(driver, "@globals"))

    def test_servers_are_found_wherever_they_listen(self):
        """Each once; one that cannot be reached any more leaves a trace."""
        copy = self.crash_copy()
        server = Server(self.programs, copy + "/data", [copy + "/s", copy + "/t"], fsync="off")
        self.addCleanup(server.stop)
        # Other tests may run servers beside ours, which are found too.
        for removed in (None, "/s", "/t"):
            if removed:
                os.remove(f"{copy}{removed}/.s.PGSQL.{PORT}")
            driver = Driver("search")
            self.addCleanup(driver.close)
            found = driver.discovered
            ours = [name for name in found["instances"] if name.startswith(f"port-{PORT}")]
            self.assertEqual(len(ours), 1 if removed == "/t" else 2, found)
            lost = [line for line in found["unusable"] if copy in line]
            self.assertEqual(len(lost), 2 if removed == "/t" else 0, found)

    def test_a_person_s_socket_is_left_alone(self):
        """It neither fails a freeze nor learns anything."""
        place = self.scratch + "/everybodys"
        os.mkdir(place)
        os.chmod(place, 0o1777)
        path = f"{place}/.s.PGSQL.{PORT}"
        script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True);"
                  "s.accept(); print('somebody came')")
        person = subprocess.Popen(["/usr/bin/python3", "-c", script, path], user=54321, group=54321, extra_groups=[],
                                  stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: [person.kill(), person.stdout.close(), person.wait()])
        person.stdout.readline()
        for where in (place, "search"):
            driver = Driver(where)
            self.addCleanup(driver.close)
            warnings = [line for line in driver.discovered["warnings"] if path in line]
            self.assertEqual(len(warnings), 1, driver.discovered)
            self.assertIn("belongs to user 54321", warnings[0])
            self.assertEqual([line for line in driver.discovered["unusable"] if place in line or where == place], [])
        os.remove(path)
        driver = Driver("search")
        self.addCleanup(driver.close)
        self.assertEqual([line for line in driver.discovered["unusable"] if place in line], [])
        self.assertEqual(select.select([person.stdout], [], [], 0)[0], [])

    def standby(self, **settings):
        """A server that replays what the one under test writes."""
        copy = self.crash_copy()
        self.keep_standing_by(copy)
        source = f"host={self.scratch}/sockets port={PORT} user=postgres"
        return self.recover(copy, primary_conninfo=f"'{source}'", **settings)

    def keep_standing_by(self, copy):
        open(copy + "/data/standby.signal", "w").close()
        shutil.chown(copy + "/data/standby.signal", "postgres", "postgres")

    def driver_of(self, server, *arguments):
        driver = Driver(server.sockets[0], *arguments)
        self.addCleanup(driver.close)
        return driver

    def until_replayed(self, standby):
        self.server.sql("CHECKPOINT")
        deadline = time.monotonic() + 30
        query = f"SELECT pg_last_wal_replay_lsn() >= '{self.server.sql('SELECT pg_current_wal_insert_lsn()')}'"
        while standby.sql(query) != "t":
            self.assertLess(time.monotonic(), deadline, "the standby does not follow")
            time.sleep(0.02)

    def test_a_standby_that_has_replayed_all_is_exact(self):
        standby = self.standby()
        for attempt in range(3):
            self.until_replayed(standby)
            driver = self.driver_of(standby)
            driver.must("prepare")
            driver.must("quiesce")
            self.assertEqual(standby.sql("SELECT pg_get_wal_replay_pause_state()"), "paused")
            copy = self.crash_copy(standby)
            driver.must("release")
            self.assertEqual(standby.sql("SELECT pg_get_wal_replay_pause_state()"), "not paused")
            entry = driver.report()["app"]
            if entry["exactness"] == "exact":
                break
            # The server under test notes its running transactions now and then.
            self.assertIn("has received more than it replayed", entry["reason"])
        self.assertEqual((entry["mode"], entry["exactness"]), ("standby", "exact"))
        self.assertEqual(driver.report()[""]["exactness"], "exact")
        dump = self.take_dump(driver, "app")
        os.remove(copy + "/data/standby.signal")
        recovered = self.recover(copy)
        self.assertEqual(difference(dump, recovered.dump("app")), [])
        for sequence in entry["sequences"]:
            now = recovered.sql(f"SELECT last_value, is_called FROM {sequence['name']}", "app")
            self.assertEqual(now, f"{sequence['last_value']}|{'t' if sequence['is_called'] else 'f'}")
        # What it receives after the thaw shows that it goes on.
        self.server.sql("CREATE TABLE later (i int)", "app")
        self.until_replayed(standby)
        self.assertEqual(standby.sql("SELECT count(*) FROM later", "app"), "0")
        self.server.sql("DROP TABLE later", "app")

    def test_what_a_standby_receives_meanwhile_is_told_apart(self):
        """Between the barrier and the release, and before."""
        standby = self.standby()
        self.until_replayed(standby)
        driver = self.driver_of(standby)
        driver.must("prepare")
        driver.must("quiesce")
        held = driver.report()["app"]
        self.server.sql("SET synchronous_commit = on; INSERT INTO audit (what) VALUES ('after the barrier')", "app")
        position = self.server.sql("SELECT pg_current_wal_flush_lsn()")
        deadline = time.monotonic() + 20
        while standby.sql(f"SELECT pg_last_wal_receive_lsn() >= '{position}'") != "t":
            self.assertLess(time.monotonic(), deadline)
        driver.must("release")
        entry = driver.report()["app"]
        self.assertEqual(entry["exactness"], "skewed", held)
        self.assertIn("has received more", entry["reason"])

    def test_a_standby_under_load_recovers_to_its_dump(self):
        """When its operator says where to stop."""
        standby = self.standby()
        self.load()
        time.sleep(0.5)
        driver = self.driver_of(standby)
        driver.must("prepare")
        driver.must("quiesce")
        # What it is left alone with at the end: more than a slow machine's half second may bring.
        deadline = time.monotonic() + 20
        while standby.sql("SELECT pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn() > 200000") != "t":
            self.assertLess(time.monotonic(), deadline, "nothing comes from the primary")
            time.sleep(0.05)
        copy = self.crash_copy(standby)
        driver.must("release")
        entry = driver.report()["app"]
        lsn = entry["position"]["lsn"]
        self.assertEqual((entry["mode"], entry["exactness"]), ("standby", "skewed"))
        self.assertIn(f"recovery_target_lsn = '{lsn}' and recovery_target_inclusive = off", entry["reason"])
        self.assertEqual(driver.report()[""]["exactness"], "skewed")
        dump = self.take_dump(driver, "app")
        other = copy + "-other"
        self.addCleanup(shutil.rmtree, other, ignore_errors=True)
        shutil.copytree(copy, other, symlinks=True, copy_function=shutil.copy2)
        subprocess.run(["chown", "-R", "postgres:postgres", other + "/data"], check=True, timeout=60)
        os.chmod(other, 0o711)
        stopped = self.recover(copy, recovery_target_lsn=f"'{lsn}'", recovery_target_inclusive="off",
                               recovery_target_action="promote")
        self.assertEqual(difference(dump, stopped.dump("app")), [])
        # The control: left alone it goes on to what it had received.
        os.remove(other + "/data/standby.signal")
        self.assertNotEqual(difference(dump, self.recover(other).dump("app")), [])

    def test_a_killed_agent_leaves_no_standby_paused(self):
        standby = self.standby()
        self.until_replayed(standby)
        driver = self.driver_of(standby, "deadline=200")
        driver.must("prepare")
        driver.must("quiesce")
        driver.process.kill()
        time.sleep(1)
        self.assertEqual(standby.sql("SELECT pg_get_wal_replay_pause_state()"), "paused")
        deadline = time.monotonic() + 20
        while standby.sql("SELECT pg_get_wal_replay_pause_state()") != "not paused":
            self.assertLess(time.monotonic(), deadline, "the replay stays paused")
            time.sleep(0.1)

    def test_a_standby_that_somebody_paused_stays_paused(self):
        standby = self.standby()
        self.until_replayed(standby)
        standby.sql("SELECT pg_wal_replay_pause()")
        driver = self.driver_of(standby)
        driver.must("prepare")
        driver.must("quiesce")
        driver.must("release")
        self.assertEqual(standby.sql("SELECT pg_get_wal_replay_pause_state()"), "paused")
        self.assertEqual(standby.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%replay_resume%'"
                                     " AND pid <> pg_backend_pid()"), "0")

    def test_a_standby_that_may_not_be_paused_is_skewed(self):
        self.server.sql("CREATE ROLE nobody LOGIN BYPASSRLS; GRANT SET ON PARAMETER deadlock_timeout, lc_messages TO nobody;"
                        "GRANT pg_read_all_data, pg_write_all_data, pg_monitor, pg_checkpoint TO nobody")
        self.addCleanup(lambda: self.server.sql(
            "REVOKE SET ON PARAMETER deadlock_timeout, lc_messages FROM nobody; DROP ROLE nobody"))
        standby = self.standby(unix_socket_permissions="0777")
        self.until_replayed(standby)
        driver = self.driver_of(standby, "user=nobody", "app")
        driver.must("prepare")
        driver.must("quiesce")
        self.assertEqual(standby.sql("SELECT pg_get_wal_replay_pause_state()"), "not paused")
        driver.must("release")
        entry = driver.report()[WEIRD]
        self.assertEqual(entry["exactness"], "skewed")
        self.assertIn("nobody may not execute pg_wal_replay_pause()", entry["reason"])


if __name__ == "__main__":
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        sys.exit(77)
    if os.geteuid() != 0 or not DRIVER or not glob.glob("/usr/lib/postgresql/*/bin/postgres"):
        print("skipped: needs root, PostgreSQL and the driver's path", file=sys.stderr)
        sys.exit(77)
    unittest.main(verbosity=2, warnings="ignore")
