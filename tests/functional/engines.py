#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""engines.py AGENT HOOK SQLITE-PLUGIN: plug-ins for other databases, hostile ones and those that come with the agent.

Real Redis servers and SQLite databases with writers. What stands for the block snapshot is a copy of their files, taken
in the window.
"""
import contextlib
import glob
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import agent
from agent import CONTROL
from support.scratch import wait_until

SQLITE = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else ""
REDIS = os.path.abspath(os.path.dirname(__file__) + "/../../hooks/engines/redis")
ID = "1" * 32


class EnginesTest(agent.AgentTest):
    def setUp(self):
        super().setUp()
        self.engines = self.scratch + "/engines.d"
        os.mkdir(self.engines, 0o755)
        self.shipped = self.scratch + "/libexec/engines"
        os.mkdir(self.shipped, 0o755)

    def start(self, limits="", **environment):
        super().start(f"engines_directory={self.engines}\n{limits}", **environment)

    def plugin(self, name, directory=None, mode=0o755, **verbs):
        """A shell script with these verbs; the others do what is right."""
        bodies = {"probe": "echo '{\"engine\":\"toy\"}'", "prepare": "echo '{\"databases\":[]}'",
                  "freeze": self.says(name), "thaw": "echo '{}'", "abort": "echo '{}'", "dump": "echo dump of $0",
                  **verbs}
        path = f"{directory or self.engines}/{name}"
        with open(path, "w") as script:
            script.write(f"#!/bin/sh\necho {name} $1 >>{self.scratch}/calls\ncase $1 in\n" +
                         "".join(f"{verb})\n{body}\n;;\n" for verb, body in bodies.items()) + "esac\n")
        os.chmod(path, mode)
        return path

    @staticmethod
    def says(instance, **fields):
        database = {"instance": instance, "exactness": "exact", "mode": "toy", "dump": True, **fields}
        return f"echo '{json.dumps({'databases': [database]})}'"

    def calls(self):
        with contextlib.suppress(FileNotFoundError), open(self.scratch + "/calls") as calls:
            return calls.read().splitlines()
        return []

    def databases(self, report):
        return {d["instance"]: d for d in report["databases"]}

    def read_dump(self, name):
        """The dump, and whether it is complete."""
        self.host.send("dump", id=ID, stream=1, name=name)
        self.host.send("credit", stream=1, bytes=1 << 40)
        pieces = []
        while True:
            kind, _, payload = self.host.frame()
            if kind == CONTROL:
                return b"".join(pieces), json.loads(payload)
            pieces.append(payload)

    def still_point(self, inside=lambda: None):
        """Prepare, window and release; the report that the host gets."""
        self.prepare(ID)
        self.quiesce()
        inside()
        self.release()
        return self.report(ID)


class Contract(EnginesTest):
    def test_still_point(self):
        """Every verb in its turn, with what it has to know."""
        note = f"env | grep STILLPOINT_ | sort >{self.scratch}/$1.env\n"
        self.plugin("toy", freeze=note + "echo kept >$STILLPOINT_DIRECTORY/state\n" + self.says(
            "main", database="a b", position={"at": 7}, not_covered=[{"kind": "cache"}]),
                    dump=note + "cat $STILLPOINT_DIRECTORY/state", abort=note + "echo '{}'")
        self.start()
        self.assertEqual(self.prepare(ID)["databases"], [])
        self.quiesce()
        attested = self.attested()["databases"]
        self.release()
        (database,) = self.report(ID)["databases"]
        self.assertEqual(attested, [database])
        self.assertEqual((database["engine"], database["instance"], database["database"], database["dump"]),
                         ("toy", "main", "a b", "toy/main/a%20b"))
        self.assertEqual((database["exactness"], database["position"]), ("exact", {"at": 7}))
        self.assertEqual(database["not_covered"], [{"kind": "cache", "name": "", "count": 1}])
        content, end = self.read_dump("toy/main/a%20b")
        self.assertEqual((content, end["ok"]), (b"kept\n", True))
        self.finish(ID)
        verbs = [call.split()[1] for call in self.calls()]
        self.assertEqual(verbs, ["probe", "prepare", "freeze", "thaw", "dump", "abort"])
        settings = {}
        for verb in ("freeze", "dump"):
            with open(f"{self.scratch}/{verb}.env") as lines:
                settings[verb] = dict(line.rstrip().split("=", 1) for line in lines)
        self.assertEqual(settings["freeze"]["STILLPOINT_ID"], ID)
        self.assertLessEqual(int(settings["freeze"]["STILLPOINT_DEADLINE_MS"]), 3000)
        self.assertGreater(int(settings["freeze"]["STILLPOINT_HOLD_MS"]), 20000)
        self.assertEqual(settings["freeze"]["STILLPOINT_CONFIG"], self.engines + "/toy.conf")
        self.assertEqual(settings["dump"]["STILLPOINT_DATABASE"], "a b")
        self.assertFalse(os.path.exists(settings["dump"]["STILLPOINT_DIRECTORY"]))

    def test_order(self):
        """One after the other, and back in reverse."""
        for name in ("20-b", "10-a", "30-c"):
            self.plugin(name)
        self.start()
        self.still_point()
        self.finish(ID)
        self.assertEqual([call for call in self.calls() if call.split()[1] in ("freeze", "thaw", "abort")],
                         ["10-a freeze", "20-b freeze", "30-c freeze", "30-c thaw", "20-b thaw", "10-a thaw",
                          "30-c abort", "20-b abort", "10-a abort"])

    def test_a_sibling_fails(self):
        """Nothing is frozen, nothing stays held, and the next one works."""
        self.plugin("10-a")
        self.plugin("20-b", freeze=f"[ -e {self.scratch}/good ] || {{ echo no way >&2; exit 3; }}\n" + self.says("b"))
        self.plugin("30-c")
        self.start()
        self.prepare(ID)
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 1)
        self.assertIn("plug-in 20-b: freeze: exit status 3: no way", done.stderr)
        self.assertFalse(self.report(ID)["quiesced"])
        self.finish(ID)
        calls = self.calls()
        self.assertEqual(calls[calls.index("10-a freeze"):],
                         ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw", "30-c abort", "20-b abort",
                          "10-a abort"])
        open(self.scratch + "/good", "w").close()
        self.assertTrue(self.still_point()["quiesced"])

    def test_not_here(self):
        self.plugin("absent", probe="exit 77")
        self.start()
        self.assertEqual(self.still_point()["databases"], [])
        self.assertEqual(self.calls(), ["absent probe"])

    def test_unusable(self):
        """Nothing that was meant to be quiesced is passed over in silence."""
        self.plugin("writable", mode=0o777)
        os.mkdir(self.scratch + "/open", 0o755)
        os.symlink(self.plugin("target", directory=self.scratch + "/open"), self.engines + "/link")
        os.chmod(self.scratch + "/open", 0o777)
        bad = {"dies": "echo broken >&2; exit 1", "garbage": "echo '{,}'", "endless": "yes", "hangs": "sleep 600",
               "mute": "true", "stranger": "echo '{\"engine\":\"../x\"}'", "posing": "echo '{\"engine\":\"mariadb\"}'",
               "number": "printf '{\"engine\":'; head -c 60000 /dev/zero | tr '\\0' 9; echo '}'",
               "deep": "head -c 30000 /dev/zero | tr '\\0' '['", "not-utf8": "printf '{\"engine\":\"\\377\"}'"}
        for name, body in bad.items():
            self.plugin(name, probe=body)
        self.plugin("good")
        self.plugin("bad-prepare", prepare="echo oh no >&2; exit 9")
        self.start()
        report = self.still_point()
        self.assertTrue(report["quiesced"])
        found = self.databases(report)
        self.assertEqual(set(found), {"writable", "link", "good", "bad-prepare", *bad})
        self.assertEqual(found.pop("good")["exactness"], "exact")
        reasons = {"writable": "writable by others", "link": "writable by others", "dies": "broken",
                   "garbage": "not JSON", "endless": "more than", "hangs": "did not end in time", "mute": "JSON",
                   "posing": "agent's own", "deep": "nested", "bad-prepare": "exit status 9: oh no"}
        for name, database in found.items():
            self.assertEqual((database["exactness"], database["dump"]), ("failed", ""), name)
            self.assertIn(reasons.get(name, ""), database["reason"])
            self.assertTrue(database["reason"], name)
            self.assertLess(len(database["reason"]), 4096, name)  # more than the host takes
        self.assertFalse([call for call in self.calls() if call.startswith(("writable", "target"))])

    def test_hostile_freeze(self):
        """Fails, within the barrier's time; the next one works, and nothing of it is left."""
        path = self.scratch + "/child"
        ok = {"instance": "x", "exactness": "exact"}
        bad = {"hangs with children": f"sleep 600 & echo $! >{path}; wait", "endless": "yes",
               "nothing": "echo '{\"databases\":[]}'", "no exactness": self.says("x", exactness=None),
               "wrong exactness": self.says("x", exactness="perfect"), "no reason": self.says("x", exactness="skewed"),
               "bad instance": self.says("a/b"), "big position": self.says("x", position={"a": "x" * 9000}),
               "big count": self.says("x", not_covered=[{"kind": "k", "count": 1 << 70}]),
               "twice": f"echo '{json.dumps({'databases': [ok, ok]})}'",
               "many": f"echo '{json.dumps({'databases': [{**ok, 'database': str(i)} for i in range(65)]})}'",
               "array": "echo '[]'"}
        self.plugin("toy", freeze=f". {self.scratch}/body")
        self.start("barrier_limit_ms=1500\n")
        for what, body in bad.items():
            with self.subTest(what):
                with open(self.scratch + "/body", "w") as script:
                    script.write(body + "\n")
                self.prepare(ID)
                self.assertEqual(self.hook("freeze").returncode, 1)
                self.finish(ID)
        with open(path) as child:
            wait_until(lambda pid=int(child.read()): not agent_lives(pid), 10, "a child is left")
        with open(self.scratch + "/body", "w") as script:
            script.write(self.says("fine") + "\n")
        self.assertTrue(self.still_point()["quiesced"])

    def test_what_a_freeze_leaves_running(self):
        """It keeps the output open and goes on writing: nobody waits for it, and it ends with the still point."""
        self.plugin("toy", freeze=self.says("x") + "\n(trap '' PIPE; while sleep 0.5; do echo more; done) &\n"
                    f"echo $! >{self.scratch}/child")
        self.start()
        self.assertEqual(self.still_point()["databases"][0]["exactness"], "exact")
        with open(self.scratch + "/child") as child:
            pid = int(child.read())
        self.assertTrue(self.read_dump("toy/x")[1]["ok"])
        self.finish(ID)
        wait_until(lambda: not agent_lives(pid), 10, "it still runs")

    def test_forgotten_databases(self):
        """What its prepare has named and its freeze does not is not covered by silence."""
        self.plugin("toy", prepare="echo '{\"databases\":[{\"instance\":\"lost\"},{\"instance\":\"x\"}]}'",
                    freeze=self.says("x"))
        self.plugin("toz", freeze=self.says("x"))
        self.start()
        report = self.still_point()
        self.assertEqual([(d["instance"], d["exactness"]) for d in report["databases"]],
                         [("x", "exact"), ("lost", "failed"), ("x", "failed")])
        self.assertIn("another plug-in", report["databases"][2]["reason"])

    def test_thaw_lowers(self):
        """Only what the thaw finds out tells whether it was held long enough; and it cannot make it better."""
        self.plugin("bad", thaw="exit 1")
        self.plugin("late", thaw=self.says("late", exactness="skewed", reason="let go early"))
        self.plugin("vain", freeze=self.says("vain", exactness="skewed", reason="known before"),
                    thaw=self.says("vain"))
        self.start()
        found = self.databases(self.still_point())
        self.assertEqual({name: d["exactness"] for name, d in found.items()}, dict.fromkeys(found, "skewed"))
        self.assertIn("thaw failed: exit status 1", found["bad"]["reason"])
        self.assertEqual(found["late"]["reason"], "let go early")
        self.assertEqual(found["vain"]["reason"], "known before")

    def test_no_thaw_comes(self):
        """At the guest's deadline its plug-ins are thawed too."""
        self.plugin("toy")
        self.start("barrier_limit_ms=500\nhook_limit_ms=1000\nguest_deadline_ms=1500\n")
        self.prepare(ID)
        self.quiesce()
        wait_until(lambda: "toy thaw" in self.calls(), 20, "nobody thaws it")
        self.release()

    def test_hook_dies(self):
        """A freeze that nobody waits for any more is cut short, and undone."""
        self.plugin("10-a")
        self.plugin("20-b", freeze="sleep 600")
        self.start("barrier_limit_ms=7000\nhook_limit_ms=7500\n")
        self.prepare(ID)
        hook = subprocess.Popen([agent.HOOK, "freeze"], env=self.environment, stderr=subprocess.DEVNULL)
        wait_until(lambda: "20-b freeze" in self.calls(), 20, "no freeze comes")
        begun = time.monotonic()
        hook.kill()
        hook.wait()
        wait_until(lambda: "10-a thaw" in self.calls(), 20, "it is not thawed")
        self.assertLess(time.monotonic() - begun, 5)

    def test_agent_dies(self):
        """What a plug-in holds in a program ends with the agent's end of the lifeline."""
        self.plugin("toy", freeze=self.says("x") + f"\n(cat <&3; echo free >{self.scratch}/free) >/dev/null 2>&1 &")
        self.start()
        self.prepare(ID)
        self.quiesce()
        self.addCleanup(agent.end_all, self.watchdogs())
        self.assertFalse(os.path.exists(self.scratch + "/free"))
        self.agent.kill()
        wait_until(lambda: os.path.exists(self.scratch + "/free"), 10, "it is still held")

    def test_shipped(self):
        """The site's own takes the place of a shipped one, and a link to /dev/null takes it away."""
        self.plugin("one", directory=self.shipped, freeze=self.says("shipped"))
        self.plugin("two", directory=self.shipped)
        self.plugin("three", directory=self.shipped)
        self.plugin("one", freeze=self.says("own"))
        os.symlink("/dev/null", self.engines + "/two")
        self.start()
        self.assertEqual(set(self.databases(self.still_point())), {"own", "three"})

    def test_shipped_but_hidden(self):
        """By what was meant to take its place, and cannot."""
        for name in ("dangling", "directory", "plain"):
            self.plugin(name, directory=self.shipped)
        os.symlink(self.scratch + "/nothing", self.engines + "/dangling")
        os.mkdir(self.engines + "/directory")
        self.plugin("plain", mode=0o644)
        self.start()
        found = self.databases(self.still_point())
        self.assertEqual(set(found), {"dangling", "directory", "plain"})
        for database in found.values():
            self.assertIn("neither a program nor", database["reason"])
        self.assertEqual(self.calls(), [])

    def test_slow_probe(self):
        """A cold disk is no reason to say that something is here."""
        self.plugin("slow", probe="sleep 3; exit 77")
        self.start()
        self.assertEqual(self.still_point()["databases"], [])

    def test_nothing_is_started_in_the_window(self):
        """Neither by a host that finishes, nor by the agent's own end, nor at the deadline before the thaw."""
        self.plugin("toy")
        self.start()
        self.prepare(ID)
        self.quiesce()
        self.host.send("finish", id=ID)
        self.agent.terminate()
        time.sleep(1)
        self.assertEqual(self.calls()[-1], "toy freeze")
        self.release()
        wait_until(lambda: self.calls()[-2:] == ["toy thaw", "toy abort"], 20, "it is not let go")


def agent_lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return ") Z " not in stat.read()
    except FileNotFoundError:
        return False


class RedisServer:
    def __init__(self, directory, *options):
        self.directory = directory
        self.socket = directory + "/s"
        os.makedirs(directory, exist_ok=True)
        self.log = open(directory + "/log", "ab")
        self.server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", directory, "--enable-debug-command",
             "yes", "--daemonize", "no", *options], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(lambda: self.ask("PING") in ("PONG", "NOAUTH Authentication required."), 30, "it does not start")

    def ask(self, *command, timeout=20):
        return subprocess.run(["redis-cli", "-s", self.socket, *command], capture_output=True, text=True,
                              timeout=timeout).stdout.strip()

    def writes(self, key):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.ask("SET", key, "x", timeout=0.5) == "OK"
        return False

    def stop(self):
        self.server.kill()
        self.server.wait()
        self.log.close()


class Writers:
    """Threads that write until the scope ends; `write` gets their number and its own."""

    def __init__(self, write, count=4):
        self.stopping = threading.Event()
        self.written = 0
        self.threads = [threading.Thread(target=self.run, args=(write, number)) for number in range(count)]

    def run(self, write, number):
        with contextlib.closing(write(number)) as writing:
            while not self.stopping.is_set():
                next(writing)
                self.written += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_until(lambda: self.written > 100, 30, "nothing is written")
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)


@unittest.skipUnless(shutil.which("redis-server"), "redis-server is not installed")
class Redis(EnginesTest):
    def setUp(self):
        super().setUp()
        shutil.copy(REDIS, self.shipped + "/redis")
        os.chmod(self.shipped + "/redis", 0o755)

    def serve(self, *options, directory="redis"):
        server = RedisServer(f"{self.scratch}/{directory}", *options)
        self.addCleanup(server.stop)
        return server

    def configure(self, server, more=""):
        with open(self.engines + "/redis.conf", "w") as conf:
            conf.write(f"# the test's\nsocket={server.socket}\n{more}")

    def writing(self, server):
        """Every write is acknowledged before the next one."""
        def write(number):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(server.socket)
                for i in range(10 ** 9):
                    connection.sendall(f"INCR counter-{number}\r\nSET key-{number}-{i % 5000} {'v' * 100}{i}\r\n".encode())
                    answer = b""
                    while answer.count(b"\n") < 2:
                        answer += connection.recv(4096)
                    yield
        return Writers(write)

    def mount_image(self, image, path):
        """Where the server's files can really be frozen."""
        with open(image, "ab") as file:
            file.truncate(192 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, timeout=60)
        self.mounted(image, path)

    def mounted(self, image, path):
        os.makedirs(path)
        if subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, timeout=60).returncode:
            self.skipTest("loop mounts do not work here")

        def unmount():
            subprocess.run(["fsfreeze", "-u", path], capture_output=True, timeout=20)
            wait_until(lambda: subprocess.run(["umount", path], capture_output=True, timeout=20).returncode == 0, 30,
                       "the file system cannot be unmounted")
        self.addCleanup(unmount)

    def digest(self, directory, *options):
        server = self.serve(*options, directory=directory)
        self.assertNotEqual(server.ask("DBSIZE"), "0")
        return server.ask("DEBUG", "DIGEST")

    def compared(self, *options, inside=lambda: None, **environment):
        """The database's report, and whether its dump is what the copy recovers to."""
        server = self.serve(*options)
        self.configure(server)
        server.ask("EVAL", "for i = 1, 100000 do redis.call('SET', 'old' .. i, string.rep('x', 100)) end", "0")
        self.start(**environment)

        def snapshot():
            shutil.copytree(server.directory, self.scratch + "/recovered",
                            ignore=shutil.ignore_patterns("s", "log", "temp-*"))
            inside()

        with self.writing(server) as writers:
            report = self.still_point(snapshot)
            written = writers.written
            content, end = self.read_dump("redis/redis")
            self.assertTrue(end["ok"], end)
            wait_until(lambda: writers.written > written + 100, 30, "the writers do not go on")
        self.finish(ID)
        os.mkdir(self.scratch + "/dumped")
        with open(self.scratch + "/dumped/dump.rdb", "wb") as dump:
            dump.write(content)
        same = self.digest("recovered", *options) == self.digest("dumped")
        (database,) = report["databases"]
        return database, same, server

    def test_append_only(self):
        database, same, _ = self.compared("--appendonly", "yes", "--save", "")
        self.assertEqual((database["exactness"], database["mode"]), ("exact", "aof-pause"), database)
        self.assertTrue(same)

    def test_append_only_without_the_pause(self):
        database, same, _ = self.compared("--appendonly", "yes", "--save", "", STILLPOINT_TEST_NO_BARRIER="lie")
        self.assertEqual(database["exactness"], "exact", database)
        self.assertFalse(same, "the comparison finds nothing")

    def test_frozen(self):
        """On a frozen file system the dump's child waits, the server goes on, and everything is as it is in a copy."""
        self.mount_image(self.scratch + "/image", self.scratch + "/redis")

        def window():
            shutil.rmtree(self.scratch + "/recovered")
            frozen = self.scratch + "/redis"
            subprocess.run(["fsfreeze", "-f", frozen], check=True, timeout=60)
            try:
                shutil.copy(self.scratch + "/image", self.scratch + "/copy")
                self.assertTrue(glob.glob(frozen + "/temp-*.rdb"), "the child is over already")
                client = ["redis-cli", "-s", frozen + "/s"]
                self.assertEqual(subprocess.run([*client, "EXISTS", "old1"], capture_output=True, text=True,
                                                timeout=10).stdout, "1\n")
            finally:
                subprocess.run(["fsfreeze", "-u", frozen], check=True, timeout=60)
            self.mounted(self.scratch + "/copy", self.scratch + "/recovered")

        # A child that takes a second or more, however fast the machine is.
        database, same, _ = self.compared("--appendonly", "yes", "--save", "", "--rdb-key-save-delay", "-4",
                                          inside=window)
        self.assertEqual(database["exactness"], "exact", database)
        self.assertTrue(same)

    def test_file(self):
        database, same, _ = self.compared("--save", "3600 1")
        self.assertEqual((database["exactness"], database["mode"]), ("exact", "rdb-file"), database)
        self.assertTrue(same)

    def test_file_replaced_in_the_window(self):
        def save():
            self.assertIn("started", server_of(self).ask("BGSAVE"))
            wait_until(lambda: "rdb_bgsave_in_progress:0" in server_of(self).ask("INFO"), 30, "it does not save")

        def server_of(test):
            probe = RedisServer.__new__(RedisServer)
            probe.socket = test.scratch + "/redis/s"
            return probe

        database, _, _ = self.compared("--save", "3600 1", inside=save)
        self.assertEqual(database["exactness"], "skewed")
        self.assertIn("replaced", database["reason"])

    def test_memory_only(self):
        server = self.serve("--save", "")
        self.configure(server)
        server.writes("a")
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual((database["exactness"], database["mode"], database["dump"]), ("exact", "memory-only", ""))
        self.assertEqual(database["not_covered"], [{"kind": "memory-only", "name": "", "count": 1}])

    def test_writers_wait_and_go_on(self):
        server = self.serve("--appendonly", "yes")
        self.configure(server)
        self.start()
        self.prepare(ID)
        self.assertTrue(server.writes("a"))
        self.quiesce()
        self.assertFalse(server.writes("b"))
        self.assertEqual(server.ask("EXISTS", "a"), "1")
        self.addCleanup(agent.end_all, self.watchdogs())
        self.agent.kill()
        wait_until(lambda: server.writes("c"), 10, "its writers still wait")

    def test_freeze_of_another_program(self):
        """Nobody has prepared, and nobody wants a dump."""
        server = self.serve("--appendonly", "yes")
        self.configure(server)
        self.start()
        self.quiesce()
        (database,) = self.attested()["databases"]
        self.assertEqual((database["exactness"], database["dump"]), ("exact", ""), database)
        self.assertFalse(server.writes("b"))
        self.release()
        self.assertTrue(server.writes("c"))

    def test_password(self):
        server = self.serve("--save", "3600 1", "--requirepass", "secret")
        self.configure(server)
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "failed")
        self.assertIn("NOAUTH", database["reason"])
        self.finish(ID)
        path = self.scratch + "/password"
        with open(path, "w") as secret:
            secret.write("secret")
        self.configure(server, f"password_file={path}\n")
        for mode, exactness in ((0o644, "failed"), (0o600, "exact")):
            os.chmod(path, mode)
            (database,) = self.still_point()["databases"]
            self.assertEqual(database["exactness"], exactness, database)
            self.finish(ID)

    def test_server_of_a_user(self):
        """Who takes a port where no Redis is gets no password, and nobody believes it."""
        os.seteuid(54321)
        try:
            fake = socket.create_server(("127.0.0.1", 0))
        finally:
            os.seteuid(0)
        self.addCleanup(fake.close)
        fake.setblocking(False)
        with open(self.scratch + "/password", "w") as secret:
            secret.write("secret")
        os.chmod(self.scratch + "/password", 0o600)
        config = self.engines + "/redis.conf"
        with open(config, "w") as conf:
            conf.write(f"port={fake.getsockname()[1]}\npassword_file={self.scratch}/password\n")
        self.start()
        self.assertEqual(self.still_point()["databases"], [])
        self.finish(ID)
        probe = subprocess.run([REDIS, "probe"], env={**os.environ, "STILLPOINT_CONFIG": config}, timeout=60,
                               capture_output=True)
        self.assertEqual((probe.returncode, probe.stdout), (77, b""))
        with self.assertRaises(BlockingIOError, msg="somebody has connected"):
            fake.accept()

    def test_socket_of_a_user(self):
        """The operator has named it: that is a fault, unless he names the account too."""
        server = self.serve("--save", "")
        os.chown(server.socket, 54321, 54321)
        self.configure(server)
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "failed")
        self.assertIn("user 54321", database["reason"])
        self.finish(ID)
        shutil.chown(server.socket, "nobody")
        self.configure(server, "account=nobody\n")
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "exact", database)

    def slow_saves(self, server, keys=100):
        """From now on a save takes a second for ten keys."""
        for i in range(keys):
            server.ask("SET", f"slow-{i}", "x")
        self.assertEqual(server.ask("CONFIG", "SET", "rdb-key-save-delay", "100000"), "OK")

    def test_a_save_point_fires_before_the_freeze(self):
        """That is this server's trouble alone; and a dump that the server does not send has failed."""
        server = self.serve("--save", "3600 1")
        self.configure(server)
        self.plugin("toy")
        self.start()
        self.prepare(ID)
        self.slow_saves(server)
        self.assertIn("started", server.ask("BGSAVE"))
        self.assertEqual(server.ask("SET", "changed", "x"), "OK")
        self.quiesce()
        self.release()
        found = self.databases(self.report(ID))
        self.assertEqual((found["toy"]["exactness"], found["redis"]["exactness"]), ("exact", "skewed"), found)
        self.assertIn("under way", found["redis"]["reason"])
        server.stop()
        content, end = self.read_dump("redis/redis")
        self.assertEqual((content, end["ok"]), (b"", False))
        # The save that is under way has inherited the socket, and is over some time.
        self.assertRegex(end["message"], "does not send its data|no server of the system's listens there")

    def test_server_dies_before_the_freeze(self):
        server = self.serve("--save", "3600 1")
        self.configure(server)
        self.plugin("toy")
        self.start()
        self.prepare(ID)
        server.stop()
        self.quiesce()
        self.release()
        found = self.databases(self.report(ID))
        self.assertEqual((found["toy"]["exactness"], found["redis"]["exactness"]), ("exact", "failed"), found)

    def test_child_dies(self):
        """Nobody waits for its dump for ever."""
        server = self.serve("--appendonly", "yes", "--save", "")
        self.configure(server)
        self.slow_saves(server)
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "exact", database)
        with open(f"/proc/{server.server.pid}/task/{server.server.pid}/children") as children:
            (child,) = children.read().split()
        os.kill(int(child), 9)
        content, end = self.read_dump("redis/redis")
        self.assertEqual((content, end["ok"]), (b"", False))

    def test_files_of_another_server(self):
        """What lies at its paths outside of its container is not its own."""
        outside, inside = self.scratch + "/redis", self.scratch + "/inside"
        os.mkdir(outside)
        os.mkdir(inside)
        with open(outside + "/dump.rdb", "w") as file:
            file.write("of somebody else")
        server = self.scratch + "/redis-server"
        with open(server, "w") as script:
            script.write(f"#!/bin/sh\nmount --bind {inside} {outside} && exec redis-server \"$@\" "
                         f"--unixsocket {self.scratch}/s\n")
        os.chmod(server, 0o755)
        if subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=60).returncode:
            self.skipTest("mount namespaces do not work here")
        running = subprocess.Popen(["unshare", "-m", server, "--port", "0", "--save", "3600 1", "--dir", outside],
                                   stdout=subprocess.DEVNULL)
        self.addCleanup(running.wait)
        self.addCleanup(running.kill)
        wait_until(lambda: os.path.exists(self.scratch + "/s"), 30, "it does not start")
        with open(self.engines + "/redis.conf", "w") as conf:
            conf.write(f"socket={self.scratch}/s\n")
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "skewed", database)
        content, end = self.read_dump(database["dump"])
        self.assertEqual((content[:5], end["ok"]), (b"REDIS", True))

    def test_faulty_configuration(self):
        with open(self.engines + "/redis.conf", "w") as conf:
            conf.write("port=abc\n")
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "failed")
        self.assertIn("'abc' is not a port", database["reason"])

    def test_no_server(self):
        with open(self.engines + "/redis.conf", "w") as conf:
            conf.write(f"socket={self.scratch}/nobody")
        self.start()
        self.assertEqual(self.still_point()["databases"], [])


@unittest.skipUnless(SQLITE, "no plug-in for SQLite is given")
class Sqlite(EnginesTest):
    def setUp(self):
        super().setUp()
        shutil.copy(SQLITE, self.shipped + "/sqlite")
        self.home = self.scratch + "/app"
        os.mkdir(self.home)
        # As somebody else's: whoever that is has to be enough.
        shutil.chown(self.home, "nobody", "nogroup")
        with open(self.engines + "/sqlite.conf", "w") as conf:
            conf.write(f"# the test's\n{self.home}/*.db\n")

    def create(self, name, mode="wal", rows=20000):
        """A database of nobody's."""
        path = f"{self.home}/{name}.db"
        connection = self.connect(path)
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, what TEXT)")
        connection.executemany("INSERT INTO entries (what) VALUES (?)", ((f"before {i}" + " " * 80,) for i in range(rows)))
        connection.commit()
        connection.close()
        for file in glob.glob(path + "*"):
            shutil.chown(file, "nobody", "nogroup")
        return path

    @staticmethod
    def connect(path, timeout=30):
        return sqlite3.connect(path, timeout=timeout, check_same_thread=False)

    def writes(self, path):
        connection = self.connect(path, 0.3)
        try:
            connection.execute("INSERT INTO entries (what) VALUES ('new')")
            connection.commit()
            return True
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()

    def writing(self, paths):
        def write(number):
            connection = self.connect(paths[number % len(paths)])
            while True:
                connection.execute("INSERT INTO entries (what) VALUES ('written ' || ?)", (number,))
                connection.execute("UPDATE entries SET what = what || '.' WHERE id = abs(random()) % 20000")
                connection.commit()
                yield
        return Writers(write, 2 * len(paths))

    @staticmethod
    def logical(path):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return list(connection.iterdump())

    def compared(self, modes, **environment):
        paths = [self.create(name, mode) for name, mode in modes.items()]
        self.start(**environment)

        def snapshot():
            os.mkdir(self.scratch + "/recovered")
            for file in glob.glob(self.home + "/*.db*"):
                if not file.endswith("-shm"):  # of a WAL, made anew
                    shutil.copy(file, self.scratch + "/recovered")

        with self.writing(paths) as writers:
            report = self.still_point(snapshot)
            written = writers.written
            wait_until(lambda: writers.written > written + 20, 60, "the writers do not go on")
            dumps = [self.read_dump(d["dump"]) for d in report["databases"]]
        self.finish(ID)
        same = {}
        for database, (content, end) in zip(report["databases"], dumps):
            self.assertTrue(end["ok"], end)
            name = os.path.basename(database["database"])
            with open(self.scratch + "/dumped.db", "wb") as file:
                file.write(content)
            same[name] = self.logical(self.scratch + "/recovered/" + name) == self.logical(self.scratch + "/dumped.db")
        return {os.path.basename(d["database"]): d for d in report["databases"]}, same

    def test_exact(self):
        found, same = self.compared({"log": "wal", "journal": "delete"})
        self.assertEqual({name: (d["exactness"], d["mode"]) for name, d in found.items()},
                         {"log.db": ("exact", "wal-snapshot"), "journal.db": ("exact", "read-inside")}, found)
        self.assertEqual(same, {"log.db": True, "journal.db": True})

    def test_without_the_hold(self):
        found, same = self.compared({"log": "wal"}, STILLPOINT_TEST_NO_BARRIER="lie")
        self.assertEqual(found["log.db"]["exactness"], "exact")
        self.assertEqual(same, {"log.db": False}, "the comparison finds nothing")

    def test_too_large_to_be_read_inside(self):
        """Its writers do not wait for its dump."""
        path = self.create("large", "delete", rows=10)
        connection = self.connect(path)
        connection.executemany("INSERT INTO entries (what) VALUES (?)", ((f"{i} " * (1 << 19),) for i in range(40)))
        connection.commit()
        connection.close()
        self.start()
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "skewed")
        self.assertIn("WAL mode", database["reason"])
        content, end = self.read_dump(database["dump"])
        self.assertTrue(end["ok"], end)
        with open(self.scratch + "/dumped.db", "wb") as file:
            file.write(content)
        self.assertEqual(self.logical(path), self.logical(self.scratch + "/dumped.db"))

    def test_a_transaction_that_does_not_end(self):
        path = self.create("busy")
        holder = self.connect(path)
        holder.isolation_level = None
        holder.execute("BEGIN IMMEDIATE")
        self.start("barrier_limit_ms=1500\n")
        (database,) = self.still_point()["databases"]
        self.assertEqual(database["exactness"], "skewed")
        self.assertIn("did not end", database["reason"])
        holder.close()

    def test_not_a_database(self):
        self.create("good")
        with open(self.home + "/bad.db", "w") as file:
            file.write("nothing of that kind " * 1000)
        self.start()
        found = self.still_point()["databases"]
        self.assertEqual({os.path.basename(d["database"]): d["exactness"] for d in found},
                         {"good.db": "exact", "bad.db": "failed"})

    def test_writers_wait_until_the_agent_dies(self):
        paths = [self.create("log"), self.create("journal", "delete")]
        self.start()
        self.prepare(ID)
        self.quiesce()
        for path in paths:
            self.assertFalse(self.writes(path))
        self.addCleanup(agent.end_all, self.watchdogs())
        self.agent.kill()
        for path in paths:
            wait_until(lambda path=path: self.writes(path), 10, "its writers still wait")

    def test_a_dump_is_the_same_again(self):
        path = self.create("journal", "delete")
        self.start()
        (database,) = self.still_point()["databases"]
        first, end = self.read_dump(database["dump"])
        self.assertTrue(end["ok"], end)
        self.assertTrue(self.writes(path))
        second, end = self.read_dump(database["dump"])
        self.assertTrue(end["ok"], end)
        self.assertTrue(first == second, "it shows what was written since")

    def test_agent_dies_in_the_window(self):
        """Its files are as they were: closing the last connection would write the log back, on a frozen file system."""
        path = self.create("original")
        connection = self.connect(path)
        connection.execute("INSERT INTO entries (what) VALUES ('in the log')")
        connection.commit()
        for file in (path, path + "-wal"):
            copy = file.replace("original", "crashed")
            shutil.copy(file, copy)
            shutil.chown(copy, "nobody", "nogroup")
        connection.close()
        os.remove(path)
        path = self.home + "/crashed.db"
        self.start()
        self.prepare(ID)
        self.quiesce()
        self.addCleanup(agent.end_all, self.watchdogs())

        def holders():
            found = []
            for fd in glob.glob("/proc/[0-9]*/fd/*"):
                with contextlib.suppress(OSError):
                    if os.readlink(fd) == path:
                        found.append(fd)
            return found

        def contents():
            return [open(file, "rb").read() for file in (path, path + "-wal")]

        self.assertTrue(holders())
        before = contents()
        self.agent.kill()
        wait_until(lambda: not holders(), 20, "it is still held")
        self.assertEqual(before, contents())

    def test_of_root_where_others_write(self):
        """Whoever can put a journal beside it would have root replay it."""
        with tempfile.TemporaryDirectory(dir="/run") as own:
            os.chmod(own, 0o755)
            good = shutil.move(self.create("good"), own)
            bad = self.create("bad")
            for path in (good, bad):
                os.chown(path, 0, 0)
            with open(self.engines + "/sqlite.conf", "a") as conf:
                conf.write(good + "\n")
            self.start()
            found = {d["database"]: d for d in self.still_point()["databases"]}
            self.finish(ID)
        self.assertEqual({path: d["exactness"] for path, d in found.items()}, {good: "exact", bad: "failed"}, found)
        self.assertIn("others than root", found[bad]["reason"])

    def test_bad_ones_cost_nobody_else(self):
        """Names, contents and numbers that one user has chosen."""
        good = self.create("0-good")
        garbage = self.create("garbage")
        with contextlib.closing(self.connect(garbage)) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("UPDATE sqlite_schema SET name = CAST(? AS TEXT), sql = 'CREATE TABLE ('",
                               (b"\xff" * 900,))
            connection.commit()
        os.symlink("loop.db", self.home + "/loop.db")
        shutil.copy(good, self.home + "/" + "l" * 240 + ".db")
        for name in (b"\xff", b"\xfe", b"\x01" * 200, *(b"many-%d" % i for i in range(80))):
            shutil.copy(good, self.home.encode() + b"/" + name + b".db")
        self.start()
        report = self.still_point()
        self.assertTrue(report["quiesced"])
        found = {d["database"]: d for d in report["databases"]}
        self.assertEqual(found[good]["exactness"], "exact")
        self.assertEqual(found[garbage]["exactness"], "failed")
        self.assertIn("malformed", found[garbage]["reason"])
        self.assertEqual(found["others"]["exactness"], "failed")
        self.assertEqual(len(found), 64)

    def test_nothing_named(self):
        os.remove(self.engines + "/sqlite.conf")
        self.create("log")
        self.start()
        self.assertEqual(self.still_point()["databases"], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
