#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The MariaDB engine on a real server under write load: mariadb.py MYSQL-DRIVER [unittest arguments]

The proof: while the barrier stands, the server is stopped by a signal and its data directory copied, as a block
snapshot would. A second server recovers the copy, and its dump must be the engine's dump, byte for byte, except for
the AUTO_INCREMENT counters, which no server keeps in transactions.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.proof import MARIADB_ACCOUNTS, MARIADB_DATABASE, MARIADB_DUMP
from support.scratch import free_port

DRIVER = ""
TOOL = "mariadb-dump"
WRITERS = 8

SCHEMA = """
CREATE TABLE account (id INT PRIMARY KEY AUTO_INCREMENT, owner VARCHAR(40), balance BIGINT NOT NULL) ENGINE=InnoDB;
CREATE TABLE purchase (id INT PRIMARY KEY AUTO_INCREMENT, account INT NOT NULL, total BIGINT NOT NULL,
  FOREIGN KEY (account) REFERENCES account (id)) ENGINE=InnoDB;
CREATE TABLE item (id INT PRIMARY KEY AUTO_INCREMENT, purchase INT NOT NULL, token VARBINARY(16), price BIGINT,
  FOREIGN KEY (purchase) REFERENCES purchase (id)) ENGINE=InnoDB;
CREATE VIEW rich AS SELECT * FROM account WHERE balance > 1000;
INSERT INTO account (owner, balance) SELECT CONCAT('owner ', seq), 1000 FROM seq_1_to_200;
DELIMITER //
CREATE TRIGGER counted AFTER INSERT ON item FOR EACH ROW
  UPDATE purchase SET total = total + NEW.price WHERE id = NEW.purchase//
CREATE PROCEDURE buy_for_ever()
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION ROLLBACK;
  WHILE TRUE DO
    START TRANSACTION;
    SET @buyer = 1 + FLOOR(RAND() * 200);
    UPDATE account SET balance = balance - 6 WHERE id = @buyer;
    INSERT INTO purchase (account, total) VALUES (@buyer, 0);
    SET @purchase = LAST_INSERT_ID();
    INSERT INTO item (purchase, token, price) VALUES (@purchase, RANDOM_BYTES(16), 1), (@purchase, 'b', 2);
    INSERT INTO item (purchase, token, price) VALUES (@purchase, 'c', 3);
    UPDATE account SET balance = balance + 6 WHERE id = 1 + FLOOR(RAND() * 200);
    COMMIT;
  END WHILE;
END//
DELIMITER ;
"""

# Seconds of work, and no wait that anything could cut short.
SLOW_TABLE = "CREATE TABLE slow (i INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO slow SELECT seq FROM seq_1_to_60"
SLOW_ALTER = "ALTER TABLE slow ADD v CHAR(128) AS (SHA2(REPEAT('x', 4000000 + i), 512)) STORED, ALGORITHM=COPY"


class Server:
    """A mariadbd of our own. `options` beyond those of all; `port` is one of the loopback device, None for no network."""

    def __init__(self, directory, options=(), port=None):
        self.directory = directory
        self.options = options
        self.port = port
        self.data = os.path.join(directory, "data")
        self.socket = os.path.join(directory, "mysqld.sock")
        self.process = None

    def install(self):
        os.mkdir(self.directory)
        shutil.chown(self.directory, "mysql", "mysql")
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--user=mysql", "--skip-test-db"]
            + ["--auth-root-authentication-method=socket"],
            check=True,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    def environment(self):
        """A server that starts deletes all temporary tables in its TMPDIR, and servers whose they are crash: to each its own."""
        own = os.path.join(self.directory, "tmp")
        os.makedirs(own, exist_ok=True)
        shutil.chown(own, "mysql", "mysql")
        return {**os.environ, "TMPDIR": own}

    def start(self):
        # Nothing is flushed at commit: what is on disk is there because the barrier flushed it.
        network = [f"--port={self.port}", "--bind-address=127.0.0.1"] if self.port else ["--skip-networking"]
        self.process = subprocess.Popen(
            ["mariadbd", "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}", "--user=mysql", *network]
            + [f"--pid-file={self.directory}/pid", f"--log-error={self.directory}/log.err"]
            + ["--log-bin=bin", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-log-at-timeout=100"]
            + ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--max-connections=100"]
            + [*self.options],
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while subprocess.run(self.client("-e", "SELECT 1"), capture_output=True, check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mariadbd does not start ({self.process.poll()}):\n" + self.log())
            time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)

    def client(self, *arguments):
        return ["mariadb", "--no-defaults", "--socket=" + self.socket, "--user=root", "-N", "-B", *arguments]

    def sql(self, text, database="", timeout=30):
        result = subprocess.run(
            self.client(database), input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(result.stderr + self.log())
        return result.stdout

    def log(self):
        with open(f"{self.directory}/log.err", encoding="utf-8", errors="replace") as log:
            return log.read()[-8000:]

    def background(self, text, database):
        process = subprocess.Popen(
            self.client(database), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        process.stdin.write(text)
        process.stdin.close()
        return process

    def dump(self, *what):
        command = [TOOL, *MARIADB_DUMP, "--socket=" + self.socket, *what]
        result = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if result.returncode != 0:
            raise RuntimeError(f"{command}: {result.stderr.decode(errors='replace')}\n" + self.log())
        return result.stdout

    def waiting(self, state):
        """How many statements wait in that state."""
        return int(
            self.sql(f"SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '%{state}%' AND id <> CONNECTION_ID()")
        )


class Driver:
    """The engine, step by step."""

    def __init__(self, server, scratch, *mode):
        self.process = subprocess.Popen(
            [DRIVER, server.socket, os.path.join(scratch, "run"), *mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver ended with {self.process.wait(10)}")
        return json.loads(line)

    def try_to(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def do(self, *words):
        answer = self.try_to(*words)
        if not answer["ok"]:
            raise RuntimeError(f"{words}: {answer['message']}")
        return answer

    def report(self):
        return {entry["database"]: entry for entry in self.do("report")["databases"]}

    def kill(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


def comparable(dump):
    return re.sub(rb" AUTO_INCREMENT=\d+", b"", dump)


def wait_until(condition, what, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("timed out: " + what)
        time.sleep(0.02)


class MariaDb(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.mkdtemp(prefix="stillpoint-mariadb-")
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        os.chmod(cls.scratch, 0o755)
        cls.server = Server(os.path.join(cls.scratch, "server"), port=free_port())
        cls.server.install()
        cls.addClassCleanup(cls.server.stop)
        cls.server.start()
        for database in ("shop", "bank"):
            cls.server.sql(f"CREATE DATABASE {database}; USE {database};\n{SCHEMA}")
        cls.server.sql(
            "CREATE DATABASE legacy; USE legacy;"
            "CREATE TABLE isam (id INT PRIMARY KEY) ENGINE=MyISAM; CREATE TABLE aria (id INT PRIMARY KEY) ENGINE=Aria;"
            "CREATE TABLE inno (id INT PRIMARY KEY, v INT) ENGINE=InnoDB;"
            "INSERT INTO isam VALUES (1); INSERT INTO aria VALUES (2); INSERT INTO inno SELECT seq, 0 FROM seq_1_to_300;"
            "CREATE USER reader@localhost IDENTIFIED BY 'secret'; GRANT SELECT ON shop.* TO reader@localhost;"
        )

    def driver(self, *mode):
        driver = Driver(self.server, self.scratch, *mode)
        self.addCleanup(driver.kill)
        self.assertTrue(driver.first["ok"], driver.first)
        return driver

    def start_writers(self):
        writers = [
            self.server.background("CALL buy_for_ever();", "shop" if number % 2 else "bank") for number in range(WRITERS)
        ]

        def stop():
            # A procedure does not notice that its client has gone.
            running = "FROM information_schema.processlist WHERE db IN ('shop', 'bank')"
            self.server.sql(self.server.sql(f"SELECT CONCAT('KILL ', id, ';') {running}"))
            for writer in writers:
                writer.wait(10)
            wait_until(lambda: self.server.sql(f"SELECT id {running}") == "", "writers to end")

        self.addCleanup(stop)
        self.wait_for_writes()
        return stop

    def wait_for_writes(self):
        count = "SELECT (SELECT COUNT(*) FROM shop.purchase) + (SELECT COUNT(*) FROM bank.purchase)"
        before = int(self.server.sql(count))
        wait_until(lambda: int(self.server.sql(count)) > before + 20, "write load")

    def copy(self):
        """The data directory at one instant, as a block snapshot has it."""
        copy = Server(tempfile.mkdtemp(prefix="copy-", dir=self.scratch))
        self.addCleanup(shutil.rmtree, copy.directory)
        shutil.chown(copy.directory, "mysql", "mysql")
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            subprocess.run(["cp", "-a", "--reflink=auto", self.server.data, copy.data], check=True, timeout=60)
        finally:
            self.server.process.send_signal(signal.SIGCONT)
        return copy

    def take(self, *mode):
        """A still point under load: the engine's dumps, and those of the recovered copy; and the report."""
        driver = self.driver(*mode)
        driver.do("prepare")
        quiesced = driver.do("quiesce", 3000)
        if "no-barrier" in mode:
            self.wait_for_writes()
        copy = self.copy()
        driver.do("release", 3000)
        report = driver.report()
        self.wait_for_writes()
        dumps = {}
        for name, entry in report.items():
            path = os.path.join(self.scratch, "dump.sql")
            driver.do("dump", entry["dump"], path)
            with open(path, "rb") as dump:
                dumps[name] = comparable(dump.read())
            self.assertTrue(dumps[name], name)
        driver.do("finish")
        driver.kill()
        self.addCleanup(copy.stop)
        copy.start()
        recovered = {
            name: comparable(copy.dump(*(MARIADB_DATABASE + [name] if name else MARIADB_ACCOUNTS))) for name in report
        }
        copy.stop()
        acquired = max(entry["acquired_us"] for entry in report.values())
        print(
            f"{report['shop']['mode']}: held in {acquired / 1000:.1f} ms, quiesced in {quiesced['ms']:.1f} ms", flush=True
        )
        return dumps, recovered, report

    def test_the_dump_is_that_of_the_recovered_copy(self):
        self.start_writers()
        for mode in ((), (), (), ("read-lock",)):
            dumps, recovered, report = self.take(*mode)
            self.assertEqual(set(dumps), {"shop", "bank", "legacy", ""})
            for name, dump in dumps.items():
                self.assertEqual(report[name]["exactness"], "exact", report[name])
                self.assertEqual(dump.splitlines(), recovered[name].splitlines(), name)
            self.assertEqual(report["shop"]["mode"], "ftwrl" if mode else "backup-stage")
            self.assertRegex(report["shop"]["position"]["binlog"], r"^bin\.\d+:\d+$")
            self.assertRegex(report["shop"]["position"]["gtid"], r"^0-1-\d+$")

    def test_a_check_finds_a_broken_table(self):
        self.server.sql("CREATE DATABASE checked; USE checked; CREATE TABLE t (id INT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO t SELECT seq FROM seq_1_to_3000; FLUSH TABLES")
        self.addCleanup(self.server.sql, "DROP DATABASE checked")
        path = os.path.join(self.scratch, "check")

        def check():
            driver = self.driver()
            for words in (["prepare"], ["quiesce", 3000], ["release", 3000]):
                driver.do(*words)
            answer = driver.do("check", driver.report()["checked"]["dump"], path)
            self.assertEqual(answer["tool"], "mariadb-check")
            driver.do("finish")
            driver.kill()
            with open(path, encoding="utf-8") as found:
                return found.read()

        self.assertEqual(check(), "")
        self.server.sql("FLUSH TABLES")
        with open(os.path.join(self.server.data, "checked/t.MYI"), "r+b") as index:
            index.seek(2048)
            index.write(os.urandom(4096))
        self.assertIn("Corrupt", check())

    def test_without_the_barrier_they_differ(self):
        # What is written after the database snapshot must reach the disk, or the copy could not show that nobody was held.
        self.server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        self.addCleanup(self.server.sql, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
        self.start_writers()
        dumps, recovered, report = self.take("no-barrier")
        self.assertTrue(dumps["shop"] != recovered["shop"], "they are the same: the comparison proves nothing")
        self.assertEqual(report["shop"]["exactness"], "skewed")

    def start_plain_writers(self):
        """Writes to tables without transactions, one row after the other in turn."""
        tables = {"isam": "MyISAM", "aria": "Aria TRANSACTIONAL=1", "page": "Aria TRANSACTIONAL=0"}
        self.server.sql(
            "CREATE DATABASE plain; USE plain; CREATE TABLE inno (id INT PRIMARY KEY) ENGINE=InnoDB;"
            + "".join(f"CREATE TABLE {name} (id INT PRIMARY KEY, v INT) ENGINE={kind};" for name, kind in tables.items())
        )
        self.addCleanup(self.server.sql, "DROP DATABASE plain")
        writes = "".join(f"INSERT INTO {name} VALUES (@n, @n); UPDATE {name} SET v = 0 WHERE id = @n - 5;" for name in tables)
        loop = f"DELIMITER //\nBEGIN NOT ATOMIC SET @n = 1; WHILE TRUE DO {writes} SET @n = @n + 1; END WHILE; END//\n"
        writer = self.server.background(loop, "plain")

        def stop():
            for thread in self.server.sql("SELECT id FROM information_schema.processlist WHERE db = 'plain'").split():
                self.server.sql(f"KILL {thread}")
            writer.wait(10)

        self.addCleanup(stop)
        wait_until(lambda: int(self.server.sql("SELECT COUNT(*) FROM plain.page")) > 20, "writes")

    def test_tables_without_transactions_are_exact_when_they_are_held(self):
        self.start_writers()
        self.start_plain_writers()
        for mode in ("hold", "read-lock,hold"):
            dumps, recovered, report = self.take(mode)
            self.assertEqual(report["plain"]["exactness"], "exact", report["plain"])
            self.assertEqual(report["plain"]["not_covered"], [])
            self.assertEqual(dumps["plain"].splitlines(), recovered["plain"].splitlines())
        dumps, recovered, report = self.take()
        self.assertEqual({entry["name"] for entry in report["plain"]["not_covered"]}, {f"`plain`.`{t}`" for t in ("isam", "aria", "page")})
        self.assertTrue(dumps["plain"] != recovered["plain"], "they are the same: the comparison proves nothing")

    def test_held_tables_are_let_go_when_they_are_read_and_a_lost_lock_fails_the_dump(self):
        # More than fits into the pipes on the way to a host that does not read yet.
        self.server.sql(
            "CREATE DATABASE plain; CREATE TABLE plain.inno (id INT PRIMARY KEY) ENGINE=InnoDB;"
            "CREATE TABLE plain.isam (id INT PRIMARY KEY, v VARCHAR(1000)) ENGINE=MyISAM; USE plain;"
            "INSERT INTO isam SELECT seq, REPEAT('x', 1000) FROM seq_1_to_4000"
        )
        self.addCleanup(self.server.sql, "DROP DATABASE plain")
        path = os.path.join(self.scratch, "plain.sql")
        for lost in (False, True):
            driver = self.driver("hold")
            driver.do("prepare")
            driver.do("quiesce", 3000)
            driver.do("release", 3000)
            self.assertEqual(driver.report()["plain"]["not_covered"], [])
            write = self.server.background("REPLACE INTO isam VALUES (5000, 'late')", "plain")
            self.addCleanup(lambda it=write: it.kill() or it.wait(10))
            wait_until(lambda: self.server.waiting("Waiting for") == 1, "the writer to wait")
            self.server.sql("REPLACE INTO plain.inno VALUES (1)", timeout=5)
            self.assertIsNone(write.poll())
            if lost:
                idle = "SELECT id FROM information_schema.processlist WHERE command = 'Sleep' AND db IS NULL"
                for thread in self.server.sql(idle).split():
                    self.server.sql(f"KILL {thread}")
                self.assertEqual(write.wait(10), 0)
                answer = driver.try_to("dump", "mariadb/default/plain", path)
                self.assertFalse(answer["ok"])
            else:
                driver.do("dump", "mariadb/default/plain", path)
                self.assertEqual(write.wait(10), 0)
                with open(path, encoding="utf-8") as dump:
                    self.assertNotIn("late", dump.read())
            driver.do("finish")
            driver.kill()
            self.server.sql("DELETE FROM plain.isam WHERE id = 5000")

    def test_the_report_names_what_is_not_covered_and_a_dump_restores(self):
        driver = self.driver()
        driver.do("prepare")
        driver.do("quiesce", 3000)
        driver.do("release", 3000)
        report = driver.report()
        self.assertEqual(
            {(entry["kind"], entry["name"]) for entry in report["legacy"]["not_covered"]},
            {("non-transactional-table", "`legacy`.`isam`"), ("non-transactional-table", "`legacy`.`aria`")},
        )
        self.assertEqual(report["shop"]["not_covered"], [])
        paths = {name: os.path.join(self.scratch, f"restore-{name}.sql") for name in ("legacy", "shop", "")}
        for name, path in paths.items():
            driver.do("dump", report[name]["dump"], path)
        self.assertFalse(driver.try_to("dump", report["shop"]["dump"], paths["shop"])["ok"])
        self.assertFalse(driver.try_to("dump", "mariadb/default/nothing", paths["shop"])["ok"])
        with open(paths[""], encoding="utf-8") as accounts:
            text = accounts.read()
            self.assertIn("CREATE USER IF NOT EXISTS `reader`@`localhost`", text)
            self.assertIn("GRANT SELECT ON `shop`.* TO `reader`@`localhost`", text)
        for name in ("legacy", "shop"):
            with open(paths[name], encoding="utf-8", errors="surrogateescape") as dump:
                self.server.sql("CREATE DATABASE restored")
                self.addCleanup(self.server.sql, "DROP DATABASE IF EXISTS restored")
                subprocess.run(self.server.client("restored"), stdin=dump, check=True, timeout=60)
            original, restored = (self.server.dump(*MARIADB_DATABASE, what) for what in (name, "restored"))
            strip = lambda text, what: comparable(text).replace(b"`%s`" % what, b"").replace(b"'%s'" % what, b"").replace(
                b"Database: %s" % what, b""
            )
            self.assertEqual(strip(original, name.encode()), strip(restored, b"restored"))
            self.server.sql("DROP DATABASE restored")

    def test_the_position_starts_a_replica(self):
        self.server.sql("CREATE USER replica IDENTIFIED BY 'secret'; GRANT REPLICATION SLAVE ON *.* TO replica")
        self.addCleanup(self.server.sql, "DROP USER replica")
        replica = Server(os.path.join(self.scratch, "replica"), ["--server-id=2"])
        replica.install()
        self.addCleanup(replica.stop)
        replica.start()
        stop_writers = self.start_writers()
        driver = self.driver()
        driver.do("prepare")
        driver.do("quiesce", 3000)
        driver.do("release", 3000)
        report = driver.report()
        self.wait_for_writes()
        databases = [name for name in report if name]
        for name in databases:
            driver.do("dump", report[name]["dump"], os.path.join(self.scratch, f"replica-{name}.sql"))
        stop_writers()
        end = self.server.sql("SELECT @@gtid_binlog_pos").strip()
        originals = {name: comparable(self.server.dump(*MARIADB_DATABASE, name)) for name in databases}
        file, offset = report["shop"]["position"]["binlog"].rsplit(":", 1)
        for source, wait in (
            ("MASTER_USE_GTID=slave_pos", f"SELECT MASTER_GTID_WAIT('{end}', 30)"),
            (
                f"MASTER_USE_GTID=no, MASTER_LOG_FILE='{file}', MASTER_LOG_POS={offset}",
                "SELECT MASTER_POS_WAIT('{}', {}, 30) >= 0".format(*self.server.sql("SHOW MASTER STATUS").split()[:2]),
            ),
        ):
            for name in databases:
                replica.sql(f"SET foreign_key_checks=0; CREATE OR REPLACE DATABASE {name}")
                with open(os.path.join(self.scratch, f"replica-{name}.sql"), "rb") as dump:
                    subprocess.run(replica.client(name), stdin=dump, check=True, timeout=60)
            replica.sql(
                f"SET GLOBAL gtid_slave_pos='{report['shop']['position']['gtid']}'; CHANGE MASTER TO "
                f"MASTER_HOST='127.0.0.1', MASTER_PORT={self.server.port}, MASTER_USER='replica', "
                f"MASTER_PASSWORD='secret', {source}; START SLAVE"
            )
            waited = replica.sql(wait, timeout=40).strip()
            self.assertIn(waited, ("0", "1"), replica.sql("SHOW SLAVE STATUS"))
            for name in databases:
                copy = comparable(replica.dump(*MARIADB_DATABASE, name))
                self.assertEqual(copy.splitlines(), originals[name].splitlines(), f"{name}: {source}")
            replica.sql("STOP SLAVE; RESET SLAVE ALL")

    def test_changed_accounts_are_not_called_exact(self):
        for change in (
            "CREATE USER late@localhost",
            "GRANT SELECT ON shop.* TO late@localhost",
            "ALTER USER late@localhost IDENTIFIED BY 'x'",
            "DROP USER late@localhost",
        ):
            driver = self.driver()
            driver.do("prepare")
            self.server.sql(change)
            driver.do("quiesce", 3000)
            driver.do("release", 3000)
            entry = driver.report()[""]
            self.assertEqual(entry["exactness"], "skewed", change)
            self.assertIn("changed between", entry["reason"])
            driver.do("finish")
            driver.kill()

    def test_many_databases_share_a_dump_and_few_connections(self):
        names = [f"zz{number}" for number in range(6)]
        self.server.sql("SET GLOBAL max_connections = 10;" + "".join(f"CREATE DATABASE {name};" for name in names))
        self.addCleanup(self.server.sql, "".join(f"DROP DATABASE {name};" for name in names))
        self.addCleanup(self.server.sql, "SET GLOBAL max_connections = 100")
        self.server.sql("CREATE TABLE zz5.t (id INT PRIMARY KEY) ENGINE=MyISAM; CREATE SEQUENCE zz4.counter")
        driver = self.driver()
        driver.do("prepare")
        driver.do("quiesce", 3000)
        driver.do("release", 3000)
        report = driver.report()
        others = report["@others"]
        self.assertEqual(others["dump"], "mariadb/default/@others")
        self.assertEqual(set(report) - {"", "@others"} | set(others["position"]["databases"]), {"shop", "bank", "legacy", *names})
        self.assertIn({"kind": "non-transactional-table", "name": "`zz5`.`t`", "count": 1}, others["not_covered"])
        self.assertIn({"kind": "sequence", "name": "`zz4`.`counter`", "count": 1}, others["not_covered"])
        path = os.path.join(self.scratch, "others.sql")
        driver.do("dump", others["dump"], path)
        with open(path, encoding="utf-8") as dump:
            self.assertIn("CREATE DATABASE /*!32312 IF NOT EXISTS*/ `zz5`", dump.read())

    def test_a_database_named_as_our_own_dumps(self):
        self.server.sql("CREATE DATABASE `@system`")
        self.addCleanup(self.server.sql, "DROP DATABASE `@system`")
        driver = self.driver()
        driver.do("prepare")
        driver.do("quiesce", 3000)
        driver.do("release", 3000)
        report = driver.report()
        self.assertEqual(report["@system"]["dump"], "mariadb/default/%40system")
        self.assertEqual(report[""]["dump"], "mariadb/default/@system")

    def test_an_account_without_the_rights_is_told_in_time(self):
        self.server.sql(
            "CREATE USER limited@localhost IDENTIFIED BY 'word'; GRANT ALL ON *.* TO limited@localhost;"
            "REVOKE BINLOG MONITOR, SUPER ON *.* FROM limited@localhost"
        )
        self.addCleanup(self.server.sql, "DROP USER limited@localhost")
        # With 0 the right to set it is missed first.
        self.server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        self.addCleanup(self.server.sql, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
        path = os.path.join(self.scratch, "password")
        with open(path, "w", encoding="utf-8") as file:
            file.write("word\n")
        driver = self.driver("", "limited", path)
        answer = driver.try_to("prepare")
        self.assertFalse(answer["ok"])
        self.assertIn("BINLOG MONITOR", answer["message"])

    def test_a_flush_that_fails_leaves_the_setting_as_it_was(self):
        self.server.sql(
            "CREATE USER limited@localhost IDENTIFIED BY 'word'; GRANT ALL ON *.* TO limited@localhost;"
            "REVOKE RELOAD ON *.* FROM limited@localhost"
        )
        self.addCleanup(self.server.sql, "DROP USER limited@localhost")
        path = os.path.join(self.scratch, "password")
        with open(path, "w", encoding="utf-8") as file:
            file.write("word\n")
        driver = self.driver("", "limited", path)
        self.addCleanup(self.server.sql, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
        answer = driver.try_to("prepare")
        self.assertIn("RELOAD", answer["message"])
        self.assertEqual(self.server.sql("SELECT @@global.innodb_flush_log_at_trx_commit").strip(), "0")

    def test_a_late_database_is_told_however_many_tables_there_are(self):
        names = ("late", "crowd", "later")
        self.addCleanup(self.server.sql, "".join(f"DROP DATABASE IF EXISTS {name};" for name in names))
        self.server.sql("CREATE DATABASE crowd; CREATE TABLE crowd.t (i INT) ENGINE=MEMORY")
        for late, tables in (("late", 0), ("later", 3001)):
            # Such a table is this file and no more; thousands of statements would wait for the disk.
            copies = [os.path.join(self.server.data, "crowd", f"t{number}.frm") for number in range(tables)]
            self.addCleanup(lambda made=copies: (self.server.sql("FLUSH TABLES"), [os.remove(copy) for copy in made]))
            for copy in copies:
                shutil.copy(os.path.join(self.server.data, "crowd", "t.frm"), copy)
                shutil.chown(copy, "mysql", "mysql")
            driver = self.driver()
            driver.do("prepare")
            self.server.sql(f"CREATE DATABASE {late}")
            driver.do("quiesce", 3000)
            driver.do("release", 3000)
            entry = driver.report()[late]
            self.assertEqual((entry["exactness"], entry["dump"]), ("failed", ""))
            self.assertIn("created after", entry["reason"])
            driver.do("finish")
            driver.kill()

    def test_changed_definitions_wait_for_the_dump(self):
        self.server.sql(
            "CREATE DATABASE change_me; USE change_me;"
            + "".join(f"CREATE TABLE t{i} (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO t{i} VALUES (1), (2);" for i in range(5))
        )
        self.addCleanup(self.server.sql, "DROP DATABASE IF EXISTS change_me")
        driver = self.driver()
        driver.do("prepare")
        # As late as can be: the engine learns of it inside the barrier.
        self.server.sql("CREATE TABLE change_me.late (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO change_me.late VALUES (7)")
        reference = self.server.dump(*MARIADB_DATABASE, "change_me")
        driver.do("quiesce", 3000)
        driver.do("release", 3000)
        changes = [
            self.server.background(statement, "change_me")
            for statement in (
                "ALTER TABLE t0 ADD COLUMN v INT DEFAULT 1",
                "TRUNCATE TABLE t1",
                "DROP TABLE t2",
                "RENAME TABLE t3 TO t9",
                "TRUNCATE TABLE late",
            )
        ]
        self.addCleanup(lambda: [change.kill() or change.wait(10) for change in changes])
        wait_until(lambda: self.server.waiting("metadata lock") == len(changes), "changes to wait")
        self.server.sql("INSERT INTO t4 VALUES (3)", "change_me")
        path = os.path.join(self.scratch, "changed.sql")
        driver.do("dump", "mariadb/default/change_me", path)
        with open(path, "rb") as dump:
            self.assertEqual(dump.read().splitlines(), reference.splitlines())
        for change in changes:
            self.assertEqual(change.wait(20), 0)
        self.assertEqual(self.server.sql("SHOW TABLES", "change_me").split(), ["late", "t0", "t1", "t4", "t9"])

    def start_long_update(self):
        update = self.server.background("UPDATE inno SET v = v + 1 WHERE SLEEP(0.01) = 0", "legacy")
        self.addCleanup(lambda: update.kill() or update.wait(10))
        wait_until(lambda: "UPDATE inno" in self.server.sql("SHOW FULL PROCESSLIST"), "the long UPDATE to run")
        return update

    def test_a_long_update_runs_on_through_the_stages(self):
        self.server.sql("UPDATE legacy.inno SET v = 0")
        update = self.start_long_update()
        driver = self.driver()
        driver.do("prepare")
        quiesced = driver.do("quiesce", 3000)
        driver.do("release", 3000)
        self.assertIsNone(update.poll(), "the barrier waited for the UPDATE")
        print(f"backup-stage beside a long UPDATE: {quiesced['ms']:.1f} ms", flush=True)
        path = os.path.join(self.scratch, "long.sql")
        driver.do("dump", "mariadb/default/legacy", path)
        self.assertEqual(update.wait(30), 0)
        with open(path, encoding="utf-8") as dump:
            text = dump.read()
        self.assertIn("(300,0)", text)
        self.assertNotIn(",1)", text)

    def start_long_alter(self):
        alter = self.server.background(SLOW_ALTER, "altered")
        self.addCleanup(lambda: alter.kill() or alter.wait(10))
        wait_until(lambda: "copy to tmp" in self.server.sql("SHOW FULL PROCESSLIST"), "the ALTER to run")
        return alter

    def test_a_long_alter_runs_on_through_the_stages_and_a_read_lock_gives_up(self):
        self.server.sql(f"CREATE DATABASE altered; USE altered; {SLOW_TABLE}")
        self.addCleanup(self.server.sql, "DROP DATABASE altered")
        driver = self.driver()
        driver.do("prepare")
        reference = self.server.dump(*MARIADB_DATABASE, "altered")
        alter = self.start_long_alter()
        driver.do("quiesce", 3000)
        self.assertIsNone(alter.poll(), "the barrier waited for the ALTER")
        copy = self.copy()
        driver.do("release", 3000)
        self.assertEqual(driver.report()["altered"]["exactness"], "exact")
        path = os.path.join(self.scratch, "altered.sql")
        driver.do("dump", "mariadb/default/altered", path)
        with open(path, "rb") as dump:
            self.assertEqual(dump.read().splitlines(), reference.splitlines())
        driver.do("finish")
        self.assertEqual(alter.wait(40), 0)
        self.addCleanup(copy.stop)
        copy.start()
        self.assertEqual(copy.dump(*MARIADB_DATABASE, "altered").splitlines(), reference.splitlines())
        copy.stop()
        self.server.sql("ALTER TABLE slow DROP v", "altered")
        driver = self.driver("read-lock,require")
        driver.do("prepare")
        alter = self.start_long_alter()
        answer = driver.try_to("quiesce", 1000)
        self.assertFalse(answer["ok"])
        self.assertIn("kept the read lock away", answer["message"])
        self.server.sql("UPDATE shop.account SET balance = balance WHERE id = 1", timeout=5)
        self.assertIsNone(alter.poll(), "the ALTER was killed, or waited for")
        self.assertEqual(alter.wait(40), 0)

    def test_a_read_lock_gives_up_beside_a_long_update(self):
        self.server.sql("UPDATE legacy.inno SET v = 0")
        update = self.start_long_update()
        driver = self.driver("read-lock,require")
        driver.do("prepare")
        answer = driver.try_to("quiesce", 1500)
        self.assertFalse(answer["ok"])
        self.assertIn("mariadb default", answer["message"])
        # Nothing is held, nobody was killed.
        self.server.sql("UPDATE shop.account SET balance = balance WHERE id = 1", timeout=5)
        driver.do("finish")
        # Unless it is required, the dump is of another instant, and says so.
        driver = self.driver("read-lock")
        driver.do("prepare")
        driver.do("quiesce", 1500)
        self.server.sql("UPDATE shop.account SET balance = balance WHERE id = 1", timeout=5)
        driver.do("release", 3000)
        for name in ("shop", "", "legacy"):
            entry = driver.report()[name]
            self.assertEqual(entry["exactness"], "skewed", entry)
            self.assertIn("could not be held", entry["reason"])
        path = os.path.join(self.scratch, "skewed.sql")
        driver.do("dump", "mariadb/default/shop", path)
        with open(path, "rb") as dump:
            self.assertIn(b"CREATE TABLE `account`", dump.read())
        driver.do("finish")
        self.assertIsNone(update.poll())
        self.assertEqual(update.wait(30), 0)

    def test_exact_can_be_switched_off(self):
        driver = self.driver("off")
        driver.do("prepare")
        driver.do("quiesce", 3000)
        self.server.sql("UPDATE shop.account SET balance = balance WHERE id = 1", timeout=5)
        driver.do("release", 3000)
        entry = driver.report()["shop"]
        self.assertEqual((entry["exactness"], entry["mode"]), ("skewed", "none"))
        self.assertIn("exact=off", entry["reason"])

    def test_a_read_lock_lets_writers_pass_that_wait_for_each_other(self):
        driver = self.driver("read-lock")
        driver.do("prepare")
        # The first holds a row and goes on to another a little later; the second waits for it with its statement running.
        first = self.server.background(
            "BEGIN; UPDATE account SET balance = 1 WHERE id = 1; SELECT SLEEP(1);"
            "UPDATE account SET balance = 1 WHERE id = 2; COMMIT",
            "shop",
        )
        wait_until(lambda: self.server.waiting("User sleep") == 1, "the first writer")
        second = self.server.background("UPDATE account SET balance = 2 WHERE id = 1", "shop")
        wait_until(lambda: self.server.waiting("Updating") == 1, "the second writer")
        # A lock wait of the server lasts a whole second at least: in this time, only an interrupted one is tried again.
        driver.do("quiesce", 1900)
        driver.do("release", 3000)
        for writer in (first, second):
            self.assertEqual(writer.wait(10), 0)
        self.assertGreater(driver.report()["shop"]["attempts"], 1)

    def test_whoever_kills_the_agent_frees_the_server(self):
        for mode in ((), ("read-lock",)):
            driver = self.driver(*mode)
            driver.do("prepare")
            driver.do("quiesce", 3000)
            write = self.server.background("UPDATE account SET balance = balance + 1 WHERE id = 1", "shop")
            wait_until(lambda: self.server.waiting("Waiting for") == 1, "the writer to be held")
            self.assertIsNone(write.poll())
            driver.kill()
            self.assertEqual(write.wait(10), 0)
            wait_until(lambda: self.server.sql("SHOW PROCESSLIST").count("root") == 1, "the sessions to end")

    def test_a_server_that_hangs_costs_the_deadline_and_no_more(self):
        driver = self.driver()
        driver.do("prepare")
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            answer = driver.try_to("quiesce", 500)
            finished = driver.try_to("finish")
        finally:
            self.server.process.send_signal(signal.SIGCONT)
        self.assertFalse(answer["ok"])
        self.assertTrue(finished["ok"])
        self.server.sql("UPDATE shop.account SET balance = balance WHERE id = 1", timeout=5)

    def test_cancel_makes_the_next_call_fail(self):
        driver = self.driver()
        driver.do("prepare")
        driver.do("cancel")
        self.assertFalse(driver.try_to("quiesce", 3000)["ok"])
        driver.do("release", 1000)
        driver.do("finish")
        driver.do("prepare-without-dumps")
        driver.do("quiesce", 3000)
        self.assertEqual(driver.report()["shop"]["reason"], "no dump was asked for")
        driver.do("release", 1000)
        self.server.sql("UPDATE shop.account SET balance = balance WHERE id = 1", timeout=5)

    def test_a_server_is_found_wherever_it_listens(self):
        everywhere = Server(self.scratch)
        everywhere.socket = "search"
        driver = Driver(everywhere, self.scratch)
        self.addCleanup(driver.kill)
        # Other tests may run servers beside ours.
        self.assertTrue(driver.first["instances"], driver.first)
        self.assertEqual([line for line in driver.first["warnings"] if self.server.directory in line], [])

    def test_a_person_s_socket_is_left_alone(self):
        """It neither fails a freeze nor is given a password."""
        place = tempfile.mkdtemp(prefix="everybodys-", dir=self.scratch)
        os.chmod(place, 0o1777)
        gone = Server(self.scratch)
        gone.socket = place + "/mysql.sock"
        with socket.socket(socket.AF_UNIX) as person:
            person.bind(gone.socket)
            os.chown(gone.socket, 54321, 54321)
            person.listen()
            person.settimeout(0)
            driver = Driver(gone, self.scratch)
            self.addCleanup(driver.kill)
            self.assertEqual(driver.first["unusable"], [])
            self.assertIn("belongs to user 54321", driver.first["warnings"][0])
            with self.assertRaises(BlockingIOError):
                person.accept()

    def test_a_socket_without_a_server_is_a_warning(self):
        path = os.path.join(self.scratch, "dead.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        gone = Server(self.scratch)
        gone.socket = path
        driver = Driver(gone, self.scratch)
        self.addCleanup(driver.kill)
        self.assertFalse(driver.first["ok"])
        self.assertEqual(len(driver.first["warnings"]), 1)
        self.assertIn(path, driver.first["warnings"][0])


if __name__ == "__main__":
    if os.geteuid() != 0 or not shutil.which("mariadbd"):
        print("needs root and mariadbd")
        sys.exit(77)
    DRIVER = sys.argv.pop(1)
    unittest.main(verbosity=2)
