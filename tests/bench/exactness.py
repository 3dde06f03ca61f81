#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is a dump that is called exact the database of the block snapshot? Asked again and again, on real servers.

exactness.py AGENT HOOK [--rounds N] [--ballast MB] [--commit sync|async|both] [--control] [--classic] [--trace]

PostgreSQL and MariaDB lie on an ext4 file system of their own and are written to without a pause. A round is a still
point without a guest: prepare, the hook, FIFREEZE, a reflink copy of the image as the block snapshot, FITHAW, the hook,
and the dumps of the agent. Then servers recover the copy, are dumped, and the two must be equal. The agent's programs,
log and report lie on the same file system: what would wait for it while it is frozen, waits for ever.

--control  also takes rounds with the barrier switched off, which must find differences
--classic  also takes rounds of a hook that dumps under a lock inside the freeze, for the time that writers stand still
--trace    also takes a round in which no system call of agent and watchdog may change a file system while it is frozen
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.agent import AgentChannel, start_agent
from support.proof import MARIADB_ACCOUNTS, MARIADB_DATABASE, MARIADB_DUMP, comparable, difference
from support.scratch import SKIPPED, Failure, run, say, scratch_directory, unwind_on_signals, wait_until
from support.trace import traced

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
IMAGE_BYTES = 1 << 30
PROGRAMS = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parts[4]), default=None)
POSTGRES = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/", "start_new_session": True}
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
WRITERS = 4  # of each engine
TRIM = 5  # rounds after which what was written goes: else the servers fill the image

SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, spent bigint NOT NULL DEFAULT 0);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES customers, total bigint NOT NULL);
CREATE TABLE lines (id bigserial PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, amount bigint, note text);
CREATE TABLE events (id bigserial, kind text NOT NULL) PARTITION BY HASH (id);
CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE probe (id int);
INSERT INTO customers SELECT n FROM generate_series(1, 200) n;
CREATE TABLE ballast AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, {ballast}) n;
CREATE PROCEDURE buy_for_ever() LANGUAGE plpgsql AS $$
DECLARE buyer int; bought bigint;
BEGIN
  LOOP
    buyer := 1 + floor(random() * 200);
    INSERT INTO orders (customer, total) VALUES (buyer, 6) RETURNING id INTO bought;
    INSERT INTO lines (order_id, amount, note) VALUES (bought, 2, md5(random()::text)), (bought, 4, NULL);
    UPDATE customers SET spent = spent + 6 WHERE id = buyer;
    INSERT INTO events (kind) VALUES ('order');
    COMMIT;
    PERFORM pg_sleep(0.002);
  END LOOP;
END $$;
"""
FORUM = """
CREATE DATABASE forum; USE forum;
CREATE TABLE threads (id int PRIMARY KEY, posts int NOT NULL DEFAULT 0) ENGINE=InnoDB;
CREATE TABLE posts (id bigint AUTO_INCREMENT PRIMARY KEY, thread int NOT NULL, body varchar(200),
  FOREIGN KEY (thread) REFERENCES threads (id)) ENGINE=InnoDB;
CREATE TABLE probe (id int) ENGINE=InnoDB;
INSERT INTO threads (id) SELECT seq FROM seq_1_to_200;
CREATE TABLE ballast (n int PRIMARY KEY, text varchar(1000)) ENGINE=InnoDB AS SELECT seq AS n, REPEAT(MD5(seq), 30) AS text FROM seq_1_to_{ballast};
DELIMITER //
CREATE PROCEDURE post_for_ever()
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION ROLLBACK;
  WHILE TRUE DO
    START TRANSACTION;
    SET @thread = 1 + FLOOR(RAND() * 200);
    INSERT INTO posts (thread, body) VALUES (@thread, MD5(RAND()));
    UPDATE threads SET posts = posts + 1 WHERE id = @thread;
    COMMIT;
    DO SLEEP(0.002);
  END WHILE;
END//
DELIMITER ;
"""


class PostgreSql:
    """A cluster in `directory`/postgresql."""

    port = "6547"

    def __init__(self, directory, sockets, asynchronous):
        self.data = directory / "postgresql"
        self.sockets = sockets
        self.options = ["-c", "max_wal_size=128MB", "-c", f"synchronous_commit={'off' if asynchronous else 'on'}"]
        self.process = None

    def create(self):
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, "postgres", "postgres")
        run([PROGRAMS / "initdb", "-D", self.data, "-A", "peer", "-E", "UTF8", "--no-sync"], 120, **POSTGRES)

    def start(self):
        command = [PROGRAMS / "postgres", "-D", self.data, "-p", self.port, "-k", self.sockets, "-c", "listen_addresses="]
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of the server that the snapshot was taken of
        self.process = subprocess.Popen([*command, *self.options], **QUIET, **POSTGRES)
        ready = [PROGRAMS / "pg_isready", "-q", "-h", self.sockets, "-p", self.port]
        wait_until(lambda: run(ready, 20, check=False).returncode == 0, 60, "PostgreSQL starts", 0.05)

    def client(self, database="shop"):
        return [PROGRAMS / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-p", self.port, "-d", database]

    def sql(self, text, database="shop"):
        return run(self.client(database), 60, input=text, **POSTGRES).stdout

    def fill(self, ballast):
        self.sql("CREATE DATABASE shop;", "postgres")
        self.sql(SHOP.replace("{ballast}", str(ballast)))

    def writer(self):
        return subprocess.Popen([*self.client(), "-c", "CALL buy_for_ever()"], **QUIET, **POSTGRES)

    def written(self):
        return int(self.sql("SELECT sum(spent) / 6 FROM customers").split(".")[0])

    def trim(self):
        self.sql("TRUNCATE lines, orders, events")

    def dump(self, database):
        command = [PROGRAMS / "pg_dump", "--format=plain", "--no-unlogged-table-data"]
        return run([*command, "-h", self.sockets, "-p", self.port, "-d", database], 120, text=False, **POSTGRES).stdout

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(60)


class MariaDb:
    """A server in `directory`/mariadb."""

    def __init__(self, directory, sockets, asynchronous):
        self.data = directory / "mariadb"
        self.socket = sockets / "mariadb.sock"
        self.log = sockets / "mariadb.log"
        # A server that starts deletes all temporary tables in its TMPDIR, and servers whose they are crash: to each its own.
        self.environment = {**os.environ, "TMPDIR": str(sockets)}
        self.options = [f"--innodb-flush-log-at-trx-commit={0 if asynchronous else 1}"]
        self.process = None

    def create(self):
        run(["mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--user=mysql", "--skip-test-db"]
            + ["--auth-root-authentication-method=socket"], 120, env=self.environment)

    def start(self):
        command = ["mariadbd", "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}", "--user=mysql"]
        command += ["--skip-networking", "--innodb-buffer-pool-size=64M", "--log-bin=bin", f"--pid-file={self.data}/pid"]
        command.append(f"--log-error={self.log}")
        self.process = subprocess.Popen([*command, *self.options], **QUIET, env=self.environment, start_new_session=True)
        ping = ["mariadb-admin", "--no-defaults", f"--socket={self.socket}", "--silent", "ping"]
        wait_until(lambda: run(ping, 20, check=False).returncode == 0, 60, "MariaDB starts", 0.05)

    def client(self, database="forum"):
        return ["mariadb", "--no-defaults", f"--socket={self.socket}", "--user=root", "-NB", "-n", database]

    def sql(self, text, database="forum"):
        return run(self.client(database), 60, input=text).stdout

    def fill(self, ballast):
        self.sql(FORUM.replace("{ballast}", str(ballast)), "")

    def writer(self):
        return subprocess.Popen([*self.client(), "-e", "CALL post_for_ever()"], **QUIET, start_new_session=True)

    def written(self):
        return int(self.sql("SELECT SUM(posts) FROM threads"))

    def trim(self):
        self.sql("TRUNCATE posts; FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW()")

    def dump(self, database):
        what = [*MARIADB_DATABASE, database] if database else MARIADB_ACCOUNTS
        try:
            return run(["mariadb-dump", *MARIADB_DUMP, f"--socket={self.socket}", *what], 120, text=False).stdout
        except Failure as failure:
            raise Failure(f"{failure}\n{self.log.read_text(errors='replace')[-4000:]}") from failure

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)


class Probe(threading.Thread):
    """One more writer, whose transactions are timed: how long an application stands still."""

    def __init__(self, server, acknowledged, options):
        super().__init__(daemon=True)
        self.client = subprocess.Popen(
            server.client(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, **options
        )
        self.statement = f"INSERT INTO probe VALUES (1);\n{acknowledged}\n".encode()
        self.worst = 0.0
        self.ended = False
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while not self.ended:
                begun = time.monotonic()
                self.client.stdin.write(self.statement)
                if not self.client.stdout.read(1):
                    return
                while self.client.stdout.read(1) != b"\n":
                    pass
                self.worst = max(self.worst, time.monotonic() - begun)
                time.sleep(0.005)

    def take(self):
        """The longest since it was last asked, seconds."""
        worst, self.worst = self.worst, 0.0
        return worst

    def stop(self):
        self.ended = True
        self.client.kill()
        self.client.wait()


class Agent:
    """The daemon, with a socket for the virtio port."""

    def __init__(self, programs, scratch, directory, sockets, environment):
        agent, self.hook_program = programs / "stillpoint-agent", programs / "fsfreeze-hook"
        self.environment = {
            "PATH": os.environ["PATH"], "STILLPOINT_LIBEXEC": str(programs),
            "STILLPOINT_HOOK_DIRECTORIES": str(scratch / "hooks"), "STILLPOINT_CONTROL_SOCKET": str(scratch / "agent.sock"),
        }
        settings = (
            f"report_path={directory}/report.json\n[postgresql]\nsocket_directories={sockets}\n"
            f"[mysql]\nsockets={sockets}/mariadb.sock\n"
        )
        self.log = open(directory / "agent.log", "ab")
        self.process, connected = start_agent(agent, scratch, settings, self.log, {**self.environment, **environment})
        self.channel = AgentChannel(connected=connected)
        self.channel.__enter__()

    def hook(self, verb):
        done = subprocess.run([self.hook_program, verb], env=self.environment, capture_output=True, text=True, timeout=40, check=False)
        if done.returncode != 0:
            raise Failure(f"hook {verb}: {done.stderr}")

    def pids(self):
        """The daemon's and its watchdog's."""
        children = run(["pgrep", "-P", str(self.process.pid), "stillpoint-watc"], 20).stdout.split()
        return [self.process.pid, *map(int, children)]

    def stop(self):
        self.channel.socket.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class FileSystem:
    """An ext4 file system in an image that can be copied by reference."""

    def __init__(self, stack, scratch):
        outer = scratch / "outer.img"
        self.area = scratch / "outer"
        self.mount_point = scratch / "databases"
        self.copy_point = scratch / "recovered"
        for path in (self.area, self.mount_point, self.copy_point):
            path.mkdir()
        run(["truncate", "-s", str(6 * IMAGE_BYTES), outer], 10)
        run(["mkfs.xfs", "-q", "-m", "reflink=1", outer], 60)
        self.mount(stack, outer, self.area)
        self.image, self.copy = self.area / "fs.img", self.area / "copy.img"
        run(["truncate", "-s", str(IMAGE_BYTES), self.image], 10)
        run(["mkfs.ext4", "-q", self.image], 60)
        self.mount(stack, self.image, self.mount_point)
        self.fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, self.fd)

    @staticmethod
    def mount(stack, image, place):
        run(["mount", "-o", "loop", image, place], 30)
        # A loop device lets go of its image a moment after the file system in it is unmounted.
        unmounted = lambda: run(["umount", place], 60, check=False).returncode == 0
        stack.callback(wait_until, unmounted, 30, f"{place} is unmounted")

    def freeze(self):
        fcntl.ioctl(self.fd, FIFREEZE, 0)

    def thaw(self):
        fcntl.ioctl(self.fd, FITHAW, 0)

    def snapshot(self):
        self.copy.unlink(missing_ok=True)
        run(["cp", "--reflink=always", self.image, self.copy], 30)


class Bench:
    """One kind of commit: servers, writers, and rounds."""

    def __init__(self, stack, scratch, options, asynchronous):
        self.stack, self.scratch, self.options, self.asynchronous = stack, scratch, options, asynchronous
        self.sockets = scratch / "sockets"
        self.sockets.mkdir()
        self.sockets.chmod(0o777)
        self.recovered_sockets = scratch / "recovered-sockets"
        self.recovered_sockets.mkdir()
        self.recovered_sockets.chmod(0o777)
        (scratch / "hooks").mkdir()
        self.file_system = FileSystem(stack, scratch)
        self.file_system.mount_point.chmod(0o755)
        self.programs = self.file_system.mount_point / "programs"
        self.programs.mkdir()
        for program in (options.agent, options.hook, pathlib.Path(options.agent).with_name("stillpoint-watchdog")):
            shutil.copy(program, self.programs)
        self.servers = [kind(self.file_system.mount_point, self.sockets, asynchronous) for kind in (PostgreSql, MariaDb)]
        for server in self.servers:
            server.create()
            stack.callback(server.stop)
            server.start()
            server.fill(options.ballast * 1000 + 1)
        for server in self.servers:
            for _ in range(WRITERS):
                writer = server.writer()
                stack.callback(writer.wait)
                stack.callback(writer.kill)
        self.probes = [Probe(self.servers[0], r"\echo ack", POSTGRES), Probe(self.servers[1], "SELECT 1;", {"start_new_session": True})]
        for probe in self.probes:
            stack.callback(probe.stop)

    def agent(self, **environment):
        return Agent(self.programs, self.scratch, self.file_system.mount_point, self.sockets, environment)

    def stalls(self):
        return max(probe.take() for probe in self.probes)

    def window(self, before_thaw=lambda: None):
        """Freezes, copies and thaws; how long that took, seconds."""
        begun = time.monotonic()
        self.file_system.freeze()
        try:
            self.file_system.snapshot()
            before_thaw()
        finally:
            self.file_system.thaw()
        return time.monotonic() - begun

    def round(self, agent):
        """Databases that differ from their recovered copy, and the times."""
        identity = secrets.token_hex(16)
        agent.channel.ask("prepare", "prepared", id=identity, deadline_ms=60000)
        self.stalls()
        begun = time.monotonic()
        agent.hook("freeze")
        try:
            held = time.monotonic()
            self.window()
        finally:
            agent.hook("thaw")
        window = time.monotonic() - begun
        time.sleep(0.2)
        times = {"barrier": held - begun, "window": window, "stall": self.stalls()}
        report = agent.channel.ask("report", "report", id=identity)["report"]
        databases = {entry["dump"]: entry for entry in report["databases"] if entry["dump"]}
        dumps = agent.channel.dumps(identity, list(databases))
        agent.channel.ask("finish", "finished", id=identity)
        inexact = [f"{name}: {entry['reason']}" for name, entry in databases.items() if entry["exactness"] != "exact"]
        return self.differing(databases, dumps), inexact, times

    def traced_round(self, agent):
        """What agent and watchdog did in the window that could change a file system."""
        identity = secrets.token_hex(16)
        agent.channel.ask("prepare", "prepared", id=identity, deadline_ms=60000)
        agent.hook("freeze")

        def keep_it_busy():
            agent.channel.socket.settimeout(5)
            for request, answer in (("report", "report"), ("prepare", "prepared")):
                with contextlib.suppress(Failure, TimeoutError):
                    agent.channel.ask(request, answer, id=identity, deadline_ms=60000)
            agent.channel.socket.settimeout(60)
            time.sleep(1)

        try:
            pids = agent.pids()
            with traced(pids, self.scratch / "trace") as trace:
                self.window(keep_it_busy)
            if len(pids) != 2 or agent.process.pid not in trace.seen():
                raise Failure(f"the trace shows nothing of {pids}")
            changes = trace.changes()
        finally:
            agent.hook("thaw")
        if not changes:  # else answers may be late, and the agent's end follows anyway
            agent.channel.ask("finish", "finished", id=identity)
        return changes

    def differing(self, databases, dumps):
        point = self.file_system.copy_point
        differing = []
        with contextlib.ExitStack() as stack:
            FileSystem.mount(stack, self.file_system.copy, point)
            servers = {}
            for engine, kind in (("postgresql", PostgreSql), ("mariadb", MariaDb)):
                servers[engine] = kind(point, self.recovered_sockets, self.asynchronous)
                stack.callback(servers[engine].stop)
                servers[engine].start()
            for name, entry in databases.items():
                if name.endswith("@globals"):
                    continue
                again = servers[entry["engine"]].dump(entry["database"])
                if comparable(dumps[name]) != comparable(again):
                    differing.append(f"{name}\n{difference(dumps[name], again)}")
                for sequence in entry.get("sequences", []):
                    query = f"SELECT last_value, is_called FROM {sequence['name']}"
                    now = servers["postgresql"].sql(query, entry["database"]).strip()
                    was = f"{sequence['last_value']}|{'t' if sequence['is_called'] else 'f'}"
                    if was != now:
                        differing.append(f"{name}: sequence {sequence['name']}: attested {was}, recovered {now}")
        return differing

    def classic_round(self):
        """As hooks do it that are found everywhere: lock, dump, freeze, thaw, unlock."""
        mariadb = self.servers[1]
        self.stalls()
        begun = time.monotonic()
        with subprocess.Popen(mariadb.client(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lock:
            lock.stdin.write("FLUSH TABLES WITH READ LOCK;\nSELECT 'locked';\n")
            lock.stdin.flush()
            lock.stdout.readline()
            mariadb.dump("forum")
            self.servers[0].dump("shop")
            self.window()
            lock.stdin.close()
            lock.wait(30)
        window = time.monotonic() - begun
        time.sleep(0.2)
        return {"window": window, "stall": self.stalls()}


def describe(name, values):
    ordered = sorted(value * 1000 for value in values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    print(f"  {name:24} median {statistics.median(ordered):7.1f} ms   p95 {p95:7.1f} ms   worst {ordered[-1]:7.1f} ms", flush=True)


def measure(options, asynchronous):
    """True when all is as it should be."""
    kind = "asynchronous" if asynchronous else "synchronous"
    good = True
    with scratch_directory() as scratch, contextlib.ExitStack() as stack:
        bench = Bench(stack, scratch, options, asynchronous)
        agent = bench.agent()
        stop = stack.enter_context(contextlib.ExitStack())
        stop.callback(agent.stop)
        times, wrong, inexact = [], [], []
        for number in range(options.rounds):
            if number % TRIM == TRIM - 1:
                for server in bench.servers:
                    server.trim()
            differing, skewed, took = bench.round(agent)
            times.append(took)
            wrong += [f"round {number}: {what}" for what in differing]
            inexact += [f"round {number}: {what}" for what in skewed]
            say(f"{kind} commit, round {number + 1} of {options.rounds}: {'differs' if differing else 'equal'}")
        written = [server.written() for server in bench.servers]
        print(f"{kind} commit, {options.rounds} rounds: {len(wrong)} differ, {len(inexact)} not exact; transactions: {written}")
        for what in ("barrier", "window", "stall"):
            describe(f"worst writer {what}" if what == "stall" else what, [took[what] for took in times])
        for line in wrong + inexact:
            print("  " + line)
        good = not wrong and not inexact
        if options.trace:
            changes = bench.traced_round(agent)
            print(f"  traced while frozen: {len(changes)} system calls could have changed a file system")
            for call in changes:
                print(f"    {call}")
            good = good and not changes
        stop.close()
        if options.classic:
            classic = [bench.classic_round() for _ in range(max(3, options.rounds // 5))]
            describe("classic hook, window", [took["window"] for took in classic])
            describe("classic hook, stall", [took["stall"] for took in classic])
            ratio = statistics.median(t["stall"] for t in classic) / statistics.median(t["stall"] for t in times)
            print(f"  the classic hook stalls writers {ratio:.1f} times as long")
        if options.control:
            liar = bench.agent(STILLPOINT_TEST_NO_BARRIER="lie")
            stack.callback(liar.stop)
            differing = bench.round(liar)[0]
            print(f"  without the barrier: {len(differing)} differ")
            good = good and bool(differing)
    return good


def see_own_mounts():
    """Goes on in a mount namespace of its own: the watchdogs of other agents on this machine open, and thaw, what they see."""
    if os.environ.get("STILLPOINT_OWN_MOUNTS"):
        return
    os.environ["STILLPOINT_OWN_MOUNTS"] = "1"
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-B", *sys.argv]
    os.execvp(command[0], command)


def main():
    unwind_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent")
    parser.add_argument("hook")
    parser.add_argument("--rounds", type=int, default=50, help="of each kind of commit (50)")
    parser.add_argument("--ballast", type=int, default=32, help="MB of each engine's database that nobody writes to (32)")
    parser.add_argument("--commit", choices=("sync", "async", "both"), default="both")
    parser.add_argument("--control", action="store_true", help="and rounds without the barrier, which must differ")
    parser.add_argument("--classic", action="store_true", help="and rounds of a hook that dumps in the freeze")
    parser.add_argument("--trace", action="store_true", help="and a round under strace, which must show no change")
    options = parser.parse_args()
    options.agent, options.hook = os.path.abspath(options.agent), os.path.abspath(options.hook)
    if os.geteuid() != 0 or PROGRAMS is None or not shutil.which("mariadbd") or not shutil.which("mkfs.xfs"):
        say("skipped: needs root, PostgreSQL, MariaDB and xfsprogs")
        sys.exit(SKIPPED)
    see_own_mounts()
    kinds = {"sync": [False], "async": [True], "both": [False, True]}[options.commit]
    sys.exit(0 if all([measure(options, asynchronous) for asynchronous in kinds]) else 1)


if __name__ == "__main__":
    main()
