#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""agent.py AGENT HOOK: the daemon with qemu-ga's hook, its watchdog and a real PostgreSQL, without a guest.

The test is the host (a socket stands for the virtio port) and qemu-ga (it runs the hook, and freezes a loop-mounted
file system where the watchdog has to thaw one).
"""
import ctypes
import glob
import json
import os
import pathlib
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.agent import start_agent
from support.scratch import wait_until

AGENT, HOOK = (os.path.abspath(sys.argv.pop(1)), os.path.abspath(sys.argv.pop(1))) if len(sys.argv) > 2 else ("", "")
PORT = "6544"
CONTROL, DATA = 1, 2


def run_as_postgres():
    return {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/",
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}}


class Frames:
    """One end of a connection in the protocol's frames."""

    def __init__(self, connection):
        self.connection = connection
        self.connection.settimeout(20)

    def control(self, kind, **fields):
        """A control message's frame."""
        payload = json.dumps({"type": kind, **fields}).encode()
        return struct.pack("<4sB3xII", b"SPF1", CONTROL, 0, len(payload)) + payload

    def send(self, kind, **fields):
        self.raw(self.control(kind, **fields))

    def raw(self, content):
        self.connection.sendall(content)

    def exactly(self, count):
        content = b""
        while len(content) < count:
            piece = self.connection.recv(count - len(content))
            if not piece:
                raise EOFError("the agent closed the connection")
            content += piece
        return content

    def frame(self):
        magic, kind, stream, length = struct.unpack("<4sB3xII", self.exactly(16))
        assert magic == b"SPF1" and length <= 4 << 20
        return kind, stream, self.exactly(length)

    def message(self, kind):
        """The next control message, which must be of that type."""
        frame_kind, _, payload = self.frame()
        message = json.loads(payload)
        assert frame_kind == CONTROL and message["type"] == kind, message
        return message

    def silent(self, seconds):
        return not select.select([self.connection], [], [], seconds)[0]


class Database:
    """A cluster that one test class shares."""

    def __init__(self, scratch):
        self.programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: float(p.split("/")[4]))[-1]
        self.sockets = scratch + "/sockets"
        data = scratch + "/data"
        for directory in (data, self.sockets):
            os.mkdir(directory, 0o700)
            shutil.chown(directory, "postgres", "postgres")
        subprocess.run([self.programs + "/initdb", "-D", data, "-A", "peer", "-E", "UTF8", "--no-sync"], check=True,
                       stdout=subprocess.DEVNULL, timeout=120, **run_as_postgres())
        self.log = open(scratch + "/server.log", "wb")
        self.process = subprocess.Popen(
            [self.programs + "/postgres", "-D", data, "-p", PORT, "-k", self.sockets, "-c", "listen_addresses=", "-c",
             "fsync=off"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
            **run_as_postgres())
        wait_until(lambda: subprocess.run([self.programs + "/pg_isready", "-q", "-h", self.sockets, "-p", PORT],
                                          timeout=20).returncode == 0, 60, "the server does not start")
        self.sql("CREATE DATABASE app", "postgres")
        self.sql("CREATE TABLE entries (what text); INSERT INTO entries SELECT 'before ' || g || repeat(' ', 90)"
                 " FROM generate_series(1, 20000) g")

    def command(self, database):
        return [self.programs + "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-p",
                PORT, "-d", database]

    def sql(self, statement, database="app"):
        return subprocess.run([*self.command(database), "-c", statement], check=True, capture_output=True, text=True,
                              timeout=60, **run_as_postgres()).stdout.strip()

    def writes(self, what):
        """Whether a writer gets through."""
        statement = f"SET statement_timeout = '300ms'; INSERT INTO entries VALUES ('{what}')"
        done = subprocess.run([*self.command("app"), "-c", statement], capture_output=True, text=True, timeout=60,
                              **run_as_postgres())
        assert done.returncode == 0 or "statement timeout" in done.stderr, done.stderr
        return done.returncode == 0

    def signal_all(self, number):
        """To the postmaster and all its children."""
        children = [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/stat")]
        for pid in [self.process.pid, *(child for child in children if parent(child) == self.process.pid)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stop(self):
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)
        self.log.close()


class AgentTest(unittest.TestCase):
    database = None

    def setUp(self):
        self.scratch = tempfile.mkdtemp(prefix="stillpoint-agent-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.scratch, ignore_errors=True)
        os.chmod(self.scratch, 0o711)
        self.hooks = self.scratch + "/fsfreeze-hook.d"
        self.control = self.scratch + "/agent.sock"
        self.report_path = self.scratch + "/state/report.json"
        os.mkdir(self.hooks, 0o755)
        libexec = self.scratch + "/libexec"
        os.mkdir(libexec)
        for program in (HOOK, os.path.dirname(AGENT) + "/stillpoint-watchdog"):
            os.symlink(program, f"{libexec}/{os.path.basename(program)}")
        self.environment = {"PATH": os.environ["PATH"], "STILLPOINT_LIBEXEC": libexec,
                            "STILLPOINT_HOOK_DIRECTORIES": self.hooks, "STILLPOINT_CONTROL_SOCKET": self.control}
        self.agent = None

    def start(self, agent="", **environment):
        """Starts the agent and says hello."""
        sockets = self.database.sockets if self.database else self.scratch + "/none"
        settings = (f"report_path={self.report_path}\n{agent}"
                    f"[postgresql]\nsocket_directories={sockets}\n[mysql]\nenabled=false\n")
        self.log_path = self.scratch + "/agent.log"
        with open(self.log_path, "ab") as log:
            self.agent, ours = start_agent(AGENT, self.scratch, settings, log, {**self.environment, **environment})
        self.addCleanup(ours.close)
        self.addCleanup(self.end_agent)
        self.host = Frames(ours)
        self.hello("1")

    def end_agent(self):
        if self.agent.poll() is None:
            self.agent.terminate()
            try:
                self.agent.wait(20)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
        self.last_log = self.log()

    def run(self, result=None):
        bad = result and len(result.failures) + len(result.errors)
        begun, self.last_log = time.monotonic(), ""
        super().run(result)
        print(f"{time.monotonic() - begun:.1f} s {self._testMethodName}", file=sys.stderr)
        if result and len(result.failures) + len(result.errors) > bad:
            print("--- the agent's log\n" + self.last_log, file=sys.stderr)

    def log(self):
        with open(self.log_path, errors="replace") as log:
            return log.read()

    def hello(self, nonce):
        self.host.send("hello", version=1, nonce=nonce)
        self.assertEqual(self.host.message("hello")["nonce"], nonce)

    def prepare(self, identity, **limits):
        self.host.send("prepare", id=identity, deadline_ms=60000, **limits)
        prepared = self.host.message("prepared")
        self.assertEqual(prepared["id"], identity)
        return prepared

    def report(self, identity):
        self.host.send("report", id=identity)
        answer = self.host.message("report")
        self.assertEqual(answer["id"], identity)
        return answer["report"]

    def finish(self, identity):
        self.host.send("finish", id=identity)
        self.assertEqual(self.host.message("finished")["id"], identity)

    def hook(self, verb):
        return subprocess.run([HOOK, verb], env=self.environment, capture_output=True, text=True, timeout=40)

    def quiesce(self):
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 0, done.stderr)

    def release(self):
        done = self.hook("thaw")
        self.assertEqual(done.returncode, 0, done.stderr)

    def watchdogs(self):
        """Those that belong to this test's agent."""
        found = []
        for path in glob.glob("/proc/[0-9]*/environ"):
            pid = int(path.split("/")[2])
            try:
                with open(f"/proc/{pid}/cmdline") as line:
                    if line.read().startswith("stillpoint-watchdog") and parent(pid) == self.agent.pid:
                        found.append(pid)
            except OSError:
                continue
        return found

    def attested(self):
        with open(self.report_path) as report:
            return json.load(report)

    def site_hook(self, name, body):
        path = f"{self.hooks}/{name}"
        with open(path, "w") as script:
            script.write(f"#!/bin/sh\necho {name} $1 >>{self.scratch}/site.log\n{body}\n")
        os.chmod(path, 0o755)
        return path

    def site_log(self):
        try:
            with open(self.scratch + "/site.log") as log:
                return log.read().splitlines()
        except FileNotFoundError:
            return []


class WithoutDatabases(AgentTest):
    def test_window_without_a_host(self):
        """Another program freezes the guest: quiesced under an id of the agent's own."""
        self.start()
        self.quiesce()
        report = self.attested()
        self.assertTrue(report["quiesced"])
        self.assertEqual(len(report["id"]), 32)
        self.release()
        self.release()  # a thaw is right in every state
        self.quiesce()
        self.assertNotEqual(self.attested()["id"], report["id"])
        self.release()

    def test_second_freeze_is_refused(self):
        self.start()
        self.quiesce()
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 1)
        self.assertIn("frozen", done.stderr)
        self.release()

    def test_still_point_without_databases(self):
        self.start()
        self.assertEqual(self.prepare("a" * 32)["databases"], [])
        self.host.send("report", id="a" * 32)
        self.assertEqual(self.host.message("error")["request"], "report")
        self.quiesce()
        self.assertEqual(self.attested()["id"], "a" * 32)
        self.release()
        report = self.report("a" * 32)
        self.assertTrue(report["quiesced"] and report["released_at"] and not report["watchdog_fired"])
        self.host.send("prepare", id="b" * 32, deadline_ms=1000)
        self.assertEqual(self.host.message("error")["request"], "prepare")
        self.finish("a" * 32)
        self.finish("a" * 32)
        self.prepare("b" * 32)
        self.finish("b" * 32)

    def test_second_prepare_is_refused(self):
        """Also while the first one is still being worked on, and that one goes on."""
        self.start()
        self.host.send("prepare", id="a" * 32, deadline_ms=60000)
        self.host.send("prepare", id="b" * 32, deadline_ms=60000)
        self.assertEqual(self.host.message("error")["request"], "prepare")
        self.assertEqual(self.host.message("prepared")["id"], "a" * 32)
        self.quiesce()
        self.hello("another host")
        self.host.send("prepare", id="b" * 32, deadline_ms=60000)
        self.assertEqual(self.host.message("error")["request"], "prepare")
        self.release()
        self.prepare("b" * 32)

    def test_no_freeze_comes(self):
        """deadline_ms after the prepare the agent lets go by itself: another id is free to come."""
        self.start()
        self.host.send("prepare", id="a" * 32, deadline_ms=200)
        self.host.message("prepared")
        wait_until(lambda: "no freeze came" in self.log(), 10, "the agent still waits")
        self.prepare("b" * 32)
        self.finish("b" * 32)

    def test_hostile_host(self):
        """Garbage, lengths beyond all limits, nonsense: the agent lives, and the next hello works."""
        self.start()
        header = struct.pack("<4sB3xII", b"SPF1", CONTROL, 0, 0xFFFFFFFF)
        deep = b"[" * 100000
        wrong = {
            "a length of 4 GiB": header,
            "no frame": b"\xff" * 4096,
            "data from the host": struct.pack("<4sB3xII", b"SPF1", DATA, 1, 4) + b"dump",
            "not JSON": struct.pack("<4sB3xII", b"SPF1", CONTROL, 0, 3) + b"{,}",
            "deep": struct.pack("<4sB3xII", b"SPF1", CONTROL, 0, len(deep)) + deep,
        }
        for number, (what, content) in enumerate(wrong.items()):
            with self.subTest(what):
                self.host.raw(content)
                self.assertEqual(self.host.message("error")["type"], "error")
                self.hello(f"again {number}")
        for fields in ({"id": "../../etc"}, {"id": 1}, {}):
            self.host.send("prepare", deadline_ms=1, **fields)
            self.host.message("error")
            self.hello(f"after {fields}")
        self.host.raw(os.urandom(3 << 20))  # what an earlier connection left behind
        self.host.message("error")
        self.hello("last")
        self.host.send("hello", version=99, nonce="x")
        self.assertEqual(self.host.message("error")["request"], "hello")
        self.host.send("credit", stream=7, bytes=1 << 40)
        self.host.send("cancel", stream=7)
        self.host.send("nonsense")
        self.assertEqual(self.host.message("error")["request"], "nonsense")
        self.prepare("a" * 32)
        with open(f"/proc/{self.agent.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        self.assertLess(peak, 100 << 10, "KiB of memory")

    def test_hostile_hook(self):
        self.start()
        for content in (b"garbage" * 10, struct.pack("<4sB3xII", b"SPF1", CONTROL, 0, 0xFFFFFFFF), b""):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.control)
                client.sendall(content)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.control)
            hook = Frames(client)
            hook.send("freeze")
            self.assertIn("timeout_ms", hook.message("error")["message"])
        self.assertEqual(os.stat(self.control).st_mode & 0o777, 0o600)
        self.quiesce()
        self.release()

    def test_only_root_is_heard(self):
        self.start()
        os.chmod(self.control, 0o666)
        nobody = pwd.getpwnam("nobody")
        script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1]);"
                  "sys.exit(0 if s.recv(1) == b'' else 1)")
        done = subprocess.run(["/usr/bin/python3", "-c", script, self.control], user=nobody.pw_uid, group=nobody.pw_gid,
                              extra_groups=[], timeout=20, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_configuration_is_strict(self):
        path = self.scratch + "/strict.conf"
        wrong = {"[agent]\nbarier_limit_ms=1\n": "[agent] barier_limit_ms", "[agnet]\n": "[agnet]",
                 "[agent]\nhook_limit_ms=fast\n": "[agent] hook_limit_ms",
                 "[agent]\nhook_limit_ms=2000\n": "order", "[agent]\ncontrol_socket=x\n": "control_socket"}
        for text, complaint in wrong.items():
            with open(path, "w") as conf:
                conf.write(text)
            done = subprocess.run([AGENT, "--config", path, "--check-config"], capture_output=True, text=True,
                                  timeout=20)
            self.assertEqual(done.returncode, 3, text)
            self.assertIn(path, done.stderr)
            self.assertIn(complaint, done.stderr)
        self.assertEqual(subprocess.run([AGENT, "--config", self.scratch + "/missing", "--check-config"],
                                        capture_output=True, timeout=20).returncode, 0)

    def test_a_second_agent_is_refused(self):
        self.start()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            done = subprocess.run([AGENT, "--config", self.scratch + "/agent.conf", "--channel-fd",
                                   str(theirs.fileno())], pass_fds=[theirs.fileno()], env=self.environment,
                                  capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 3)
        self.assertIn("another agent", done.stderr)
        self.quiesce()
        self.release()


class SiteHooks(AgentTest):
    def test_order(self):
        self.start()
        self.site_hook("20-second", "exit 0")
        self.site_hook("10-first", "exit 0")
        self.site_hook("30-old~", "exit 1")
        self.site_hook("30-saved.dpkg-old", "exit 1")
        os.chmod(self.site_hook("40-plain", "exit 1"), 0o644)
        self.quiesce()
        self.assertEqual(self.site_log(), ["10-first freeze", "20-second freeze"])
        self.assertEqual([os.path.basename(h["name"]) for h in self.attested()["site_hooks"]],
                         ["10-first", "20-second"])
        self.release()
        self.assertEqual(self.site_log()[2:], ["20-second thaw", "10-first thaw"])

    def test_failure_is_undone(self):
        self.start()
        self.site_hook("10-good", "exit 0")
        self.site_hook("20-bad", '[ "$1" = thaw ]')
        self.site_hook("30-never", "exit 0")
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 1)
        self.assertIn("20-bad freeze: exit status 1", done.stderr)
        self.assertEqual(self.site_log(), ["10-good freeze", "20-bad freeze", "20-bad thaw", "10-good thaw"])
        self.assertFalse(os.path.exists(self.report_path))

    def test_thaw_that_fails(self):
        """Said, but qemu-ga's thaw has not failed."""
        self.start()
        self.site_hook("10-good", "exit 0")
        self.site_hook("20-bad", '[ "$1" = freeze ]')
        self.quiesce()
        done = self.hook("thaw")
        self.assertEqual(done.returncode, 0)
        self.assertIn("20-bad thaw: exit status 1", done.stderr)
        self.assertEqual(self.site_log()[2:], ["20-bad thaw", "10-good thaw"])

    def test_no_agent(self):
        """Fails closed."""
        self.site_hook("10-good", "exit 0")
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot reach the agent", done.stderr)
        self.assertEqual(self.site_log(), ["10-good freeze", "10-good thaw"])
        # Every step is tried on the way back.
        self.assertEqual(self.hook("thaw").returncode, 1)
        self.assertEqual(self.site_log()[2:], ["10-good thaw"])

    def test_endless_site_hook(self):
        """Ended with its children, so that the guest is not kept waiting."""
        self.start()
        self.site_hook("10-good", "exit 0")
        self.site_hook("20-endless", '[ "$1" = thaw ] && exit 0; sleep 300 & echo $! >' + self.scratch + '/child; wait')
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 1)
        self.assertIn("did not end in time", done.stderr)
        with open(self.scratch + "/child") as child:
            pid = int(child.read())
        wait_until(lambda: not alive(pid), 5, "its child lives on")
        self.assertEqual(self.site_log()[2:], ["20-endless thaw", "10-good thaw"])
        self.assertFalse(os.path.exists(self.report_path))

    def test_stopped_by_a_signal(self):
        self.start()
        self.site_hook("10-slow", '[ "$1" = thaw ] || sleep 1')
        hook = subprocess.Popen([HOOK, "freeze"], env=self.environment, stderr=subprocess.PIPE, text=True)
        wait_until(self.site_log, 10, "the site hook does not run")
        hook.terminate()
        _, complaint = hook.communicate(timeout=20)
        self.assertEqual(hook.returncode, 1)
        self.assertIn("signal", complaint)
        self.assertEqual(self.site_log(), ["10-slow freeze", "10-slow thaw"])
        self.assertFalse(os.path.exists(self.report_path))

    def test_hook_that_others_may_write(self):
        self.start()
        os.chmod(self.site_hook("10-open", "exit 0"), 0o777)
        done = self.hook("freeze")
        self.assertEqual(done.returncode, 1)
        self.assertIn("writable", done.stderr)
        self.assertEqual(self.site_log(), [])


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def end_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


LIBC = ctypes.CDLL(None, use_errno=True)


def bind_mount(path, where):
    if LIBC.mount(path.encode(), where.encode(), None, ctypes.c_ulong(4096), None):
        raise OSError(ctypes.get_errno(), where)


def bind_unmount(where):
    LIBC.umount2(where.encode(), 2)


class Window(AgentTest):
    """A file system is really frozen, and nobody thaws it."""

    LIMITS = "barrier_limit_ms=500\nhook_limit_ms=1000\nguest_deadline_ms=2500\n"

    def setUp(self):
        super().setUp()
        image, self.mount = self.scratch + "/image", self.scratch + "/mount"
        os.mkdir(self.mount)
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        self.mount_image(image, self.mount)

    def mount_image(self, image, path):
        subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=60)
        if subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, timeout=60).returncode:
            self.skipTest("loop mounts do not work here")
        self.addCleanup(self.unmount, path)

    def unmount(self, path):
        def unmounted():
            # An armed watchdog keeps it open until its deadline.
            subprocess.run(["fsfreeze", "-u", path], capture_output=True, timeout=20)
            return subprocess.run(["umount", path], capture_output=True, timeout=20).returncode == 0

        wait_until(unmounted, 15, "the file system cannot be unmounted")

    def open_window(self):
        self.quiesce()
        # A watchdog whose agent is dead goes on for a minute after the deadline.
        self.addCleanup(end_all, self.watchdogs())

    def freeze(self):
        self.open_window()
        self.freeze_again()

    def freeze_again(self):
        subprocess.run(["fsfreeze", "-f", self.mount], check=True, timeout=20)
        self.writer = subprocess.Popen(["touch", self.mount + "/file"])
        self.addCleanup(self.writer.wait, 30)
        self.addCleanup(subprocess.run, ["fsfreeze", "-u", self.mount], capture_output=True, timeout=20)

    def watchdog_thaws(self):
        time.sleep(0.3)
        self.assertIsNone(self.writer.poll(), "thawed before the deadline")
        self.assertEqual(self.writer.wait(20), 0)
        # As when qemu-ga was still freezing at the deadline.
        self.freeze_again()
        self.assertEqual(self.writer.wait(20), 0)

    def test_agent_is_killed(self):
        self.start(self.LIMITS)
        self.freeze()
        self.assertEqual(len(self.watchdogs()), 1)
        self.agent.kill()
        self.watchdog_thaws()

    def test_a_file_system_on_a_frozen_one(self):
        """An image's file system is thawed after the one that it lies on, whatever else is mounted how often."""
        names = [f"{self.mount}/{name}" for name in ("inner", "inner-image", "again")]
        inner, image, again = names
        os.mkdir(inner)
        os.mkdir(again)
        for _ in range(1100):  # more than the watchdog keeps open
            bind_mount(self.mount, again)
            self.addCleanup(bind_unmount, again)
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        self.mount_image(image, inner)
        self.start(self.LIMITS)
        self.open_window()
        for path in (inner, self.mount):
            self.addCleanup(subprocess.run, ["fsfreeze", "-u", path], capture_output=True, timeout=20)
        for path in (inner, self.mount):
            subprocess.run(["fsfreeze", "-f", path], check=True, timeout=20)
        writers = [subprocess.Popen(["touch", path + "/file"]) for path in (inner, self.mount)]
        self.agent.kill()
        for writer in writers:
            self.addCleanup(writer.wait, 30)
            self.assertEqual(writer.wait(20), 0)

    def test_agent_is_stopped(self):
        """An orderly end waits for that of the window, and must not take the watchdog along."""
        self.start(self.LIMITS)
        self.freeze()
        self.agent.terminate()
        self.watchdog_thaws()
        self.assertEqual(self.agent.wait(20), 0)

    def test_host_finishes_in_the_window(self):
        """Nor must a host that lets go before it thaws."""
        self.start(self.LIMITS)
        self.prepare("a" * 32)
        self.freeze()
        self.host.send("finish", id="a" * 32)
        self.watchdog_thaws()
        self.host.message("finished")

    def test_host_is_gone_in_the_window(self):
        """What it has left is let go soon after the thaw."""
        self.start(self.LIMITS)
        self.prepare("a" * 32)
        self.open_window()
        self.host.connection.close()
        self.release()
        wait_until(lambda: self.hook("freeze").returncode == 0, 20, "the dead host's still point is held")
        self.release()

    def test_no_thaw_comes(self):
        """The still point is tainted, and the agent works on."""
        self.site_hook("10-good", "exit 0")
        self.start(self.LIMITS)
        self.prepare("a" * 32)
        self.freeze()
        # The watchdog, which has begun before, may have complained of its rights.
        lines = [line for line in self.log().splitlines() if not line.startswith("stillpoint-watchdog: ")]
        self.assertEqual(len(lines), 1, "logged while frozen")
        self.watchdog_thaws()
        wait_until(lambda: self.report("a" * 32).get("released_at"), 10, "the barrier is still held")
        self.assertTrue(self.report("a" * 32)["watchdog_fired"])
        self.finish("a" * 32)
        self.host.send("prepare", id="b" * 32, deadline_ms=60000)
        self.assertIn("frozen", self.host.message("error")["message"])
        wait_until(lambda: self.site_log() == ["10-good freeze", "10-good thaw"], 10, "site hooks are not thawed")
        self.release()
        self.assertIn("no thaw came", self.log())
        self.prepare("b" * 32)
        self.quiesce()
        self.release()
        self.assertFalse(self.report("b" * 32)["watchdog_fired"])

    def test_watchdog_is_killed(self):
        """The agent itself thaws at the deadline."""
        self.start(self.LIMITS)
        self.freeze()
        (watchdog,) = self.watchdogs()
        os.kill(watchdog, signal.SIGKILL)
        self.watchdog_thaws()
        self.release()
        wait_until(lambda: "no thaw came" in self.log(), 10, "the deadline was not noticed")

    def test_agent_is_killed_and_started_again(self):
        """The earlier one's watchdog must not thaw in its window."""
        self.start(self.LIMITS)
        self.open_window()
        (earlier,) = self.watchdogs()
        self.agent.kill()
        self.agent.wait(20)
        self.assertTrue(alive(earlier), "nobody would thaw")
        self.start(self.LIMITS)
        self.open_window()
        # Before its own deadline; a process that was killed may take a moment to be gone.
        wait_until(lambda: not alive(earlier), 0.5, "it thaws in the new window", 0.01)
        self.release()

    def test_thaw_disarms(self):
        self.start(self.LIMITS)
        self.quiesce()
        self.release()
        subprocess.run(["fsfreeze", "-f", self.mount], check=True, timeout=20)
        time.sleep(3)
        done = subprocess.run(["fsfreeze", "-u", self.mount], capture_output=True, timeout=20)
        self.assertEqual(done.returncode, 0, "the watchdog of an ended window has thawed")
        (watchdog,) = self.watchdogs()
        self.agent.kill()
        wait_until(lambda: not alive(watchdog), 5, "the watchdog lives on")


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


class WithPostgreSql(AgentTest):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.mkdtemp(prefix="stillpoint-agent-pg-", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, scratch, ignore_errors=True)
        os.chmod(scratch, 0o711)
        cls.database = Database(scratch)
        cls.addClassCleanup(cls.database.stop)

    def app(self, report):
        (entry,) = [d for d in report["databases"] if d["database"] == "app"]
        return entry

    def read_dump(self, stream, credit):
        """A whole dump with so much credit at a time; no frame may exceed what was given."""
        content, given = b"", 0
        while True:
            if given == len(content):
                self.host.send("credit", stream=stream, bytes=credit)
                given += credit
            kind, number, payload = self.host.frame()
            if kind == CONTROL:
                end = json.loads(payload)
                self.assertEqual((end["type"], end["stream"], end["bytes"]), ("dump-end", stream, len(content)))
                return content, end
            self.assertEqual((kind, number), (DATA, stream))
            content += payload
            self.assertLessEqual(len(content), given, "more than the credit")

    def test_still_point(self):
        identity = "1" * 32
        self.start()
        prepared = self.prepare(identity)
        self.assertIn(("postgresql", "app", True),
                      [(d["engine"], d["database"], d["ready"]) for d in prepared["databases"]])
        self.assertTrue(self.database.writes("between"))
        self.quiesce()
        self.assertFalse(self.database.writes("held back"))
        report = self.attested()
        self.assertTrue(report["quiesced"])
        self.assertEqual(self.app(report)["exactness"], "exact")
        name = self.app(report)["dump"]
        self.host.send("dump", id=identity, stream=1, name=name)
        self.assertFalse(self.host.message("dump-end")["ok"], "a dump inside the window")
        self.release()
        self.assertTrue(self.database.writes("after the thaw"))

        # No credit, no bytes; a slow stream does not block another one.
        self.host.send("dump", id=identity, stream=1, name=name)
        self.assertTrue(self.host.silent(1.5))
        self.host.send("dump", id=identity, stream=2, name=name)
        other, end = self.read_dump(2, 1 << 20)
        self.assertTrue(end["ok"], end)
        self.assertGreater(len(other), 1 << 20)
        self.assertEqual(other.count(b"before "), 20000)
        self.assertIn(b"\nbetween\n", other)
        self.assertNotIn(b"held back", other)
        self.assertNotIn(b"after the thaw", other)
        dump, end = self.read_dump(1, 100000)
        self.assertTrue(end["ok"], end)
        self.assertEqual(comparable(dump), comparable(other))

        # A stream that is cancelled ends, its number is free again, and the tool is gone.
        self.host.send("dump", id=identity, stream=3, name=name)
        self.host.send("credit", stream=3, bytes=1000)
        self.assertEqual(len(self.host.frame()[2]), 1000)
        self.host.send("cancel", stream=3)
        self.assertFalse(self.host.message("dump-end")["ok"])
        self.host.send("dump", id=identity, stream=3, name="postgresql/none/app")
        self.assertFalse(self.host.message("dump-end")["ok"])
        self.finish(identity)
        wait_until(lambda: self.sessions() == 0, 10, "sessions are left")
        self.host.send("dump", id=identity, stream=4, name=name)
        self.assertFalse(self.host.message("dump-end")["ok"], "a dump of what was let go")

    def sessions(self):
        return int(self.database.sql("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL AND pid <>"
                                     " pg_backend_pid()", "postgres"))

    def test_barrier_switched_off(self):
        self.start(STILLPOINT_TEST_NO_BARRIER="1")
        self.assertIn("STILLPOINT_TEST_NO_BARRIER", self.log())
        self.prepare("1" * 32)
        self.quiesce()
        self.assertTrue(self.database.writes("not held"))
        self.assertEqual(self.app(self.attested())["exactness"], "skewed")
        self.release()

    def test_host_disappears(self):
        """When its connection ends, the sessions go with it."""
        self.start()
        self.prepare("1" * 32)
        self.quiesce()
        self.release()
        self.assertGreater(self.sessions(), 0)
        self.host.connection.close()
        wait_until(lambda: self.sessions() == 0, 10, "sessions are left")

    def test_new_host_takes_over(self):
        self.start()
        self.prepare("1" * 32)
        self.hello("2")
        self.prepare("2" * 32)
        self.finish("2" * 32)
        wait_until(lambda: self.sessions() == 0, 10, "sessions are left")

    def test_a_host_that_asks_too_much(self):
        """What waits is bounded, and what is refused is told."""
        self.start()
        # In one piece, so that preparing cannot end before the last one is there.
        finish = self.host.control("finish", id="1" * 32)
        self.host.raw(self.host.control("prepare", id="1" * 32, deadline_ms=60000) + 100 * finish)
        answers = [json.loads(self.host.frame()[2])["type"] for _ in range(101)]
        self.assertEqual(answers.count("error"), 36)
        self.prepare("2" * 32)
        self.quiesce()
        self.release()
        for _ in range(100):
            self.host.send("dump", id="2" * 32, stream=1, name=self.app(self.attested())["dump"])
            self.host.send("cancel", stream=1)
        ends = [self.host.message("dump-end")["message"] for _ in range(100)]
        self.assertIn("too many dumps are being started", ends)
        self.finish("2" * 32)

    def test_tools_are_not_spared_when_memory_runs_out(self):
        self.start()
        # As the agent is by its unit; less than 0 takes a right that tests may not have.
        with open(f"/proc/{self.agent.pid}/oom_score_adj", "w") as score:
            score.write("500")
        self.prepare("2" * 32)
        self.quiesce()
        self.release()
        self.host.send("dump", id="2" * 32, stream=1, name=self.app(self.attested())["dump"])

        def scores():
            found = []
            for path in glob.glob("/proc/[0-9]*/cmdline"):
                try:
                    with open(path) as line, open(os.path.dirname(path) + "/oom_score_adj") as score:
                        if "pg_dump" in line.read() and parent(int(path.split("/")[2])) == self.agent.pid:
                            found.append(int(score.read()))
                except OSError:
                    continue
            return found

        wait_until(scores, 10, "no tool runs")
        wait_until(lambda: set(scores()) <= {0}, 10, "a tool is as the agent")
        self.finish("2" * 32)

    def test_hook_dies_while_it_waits(self):
        """Its connection closes: what is held is released at once, and the next freeze works."""
        self.start("barrier_limit_ms=6000\n")
        self.prepare("1" * 32)
        holder = self.transaction()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"
        hook = subprocess.Popen([HOOK, "freeze"], env=self.environment, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.database.sql(waiting) != "0", 10, "the barrier does not wait for the transaction")
        hook.kill()
        hook.wait()
        self.assertFalse(self.reported("1" * 32)["quiesced"])
        holder.communicate("ROLLBACK;\n", timeout=20)
        self.assertTrue(self.database.writes("after the dead hook"))
        self.finish("1" * 32)
        self.quiesce()
        self.assertFalse(self.database.writes("held back"))
        self.release()

    def test_a_freeze_has_a_limit(self):
        """The barrier would come after a second, the host allows less; and what site hooks take counts."""
        self.start("barrier_limit_ms=6000\n")
        self.prepare("1" * 32, freeze_limit_ms=300)
        holder = self.transaction()
        ending = threading.Timer(1, lambda: holder.communicate("ROLLBACK;\n"))
        ending.start()
        self.addCleanup(ending.join)
        self.quiesce()
        self.assertEqual(self.app(self.attested())["exactness"], "skewed")
        self.release()
        self.finish("1" * 32)
        ending.join()
        self.site_hook("10-slow", "sleep 0.4")
        self.prepare("2" * 32, freeze_limit_ms=300)
        done = self.hook("freeze")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("used up", done.stderr)
        self.finish("2" * 32)
        self.prepare("3" * 32, freeze_limit_ms=6000)
        self.quiesce()
        self.release()

    def transaction(self):
        """A session with a change that it has not committed."""
        holder = subprocess.Popen(self.database.command("app"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  text=True, **run_as_postgres())
        self.addCleanup(holder.wait, 20)
        self.addCleanup(holder.kill)
        holder.stdin.write("BEGIN; INSERT INTO entries VALUES ('uncommitted');\n")
        holder.stdin.flush()
        begun = "SELECT count(*) FROM pg_locks WHERE relation = 'entries'::regclass AND mode = 'RowExclusiveLock'"
        wait_until(lambda: self.database.sql(begun) != "0", 10, "the transaction does not begin")
        return holder

    def reported(self, identity):
        """Waits until there is a report."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self.host.send("report", id=identity)
            answer = json.loads(self.host.frame()[2])
            if answer["type"] == "report":
                return answer["report"]
            time.sleep(0.05)
        raise AssertionError("no report of the barrier that failed")

    def test_a_transaction_that_does_not_end(self):
        """Nobody is kept waiting for it: the window opens in time, and its database is not called exact."""
        self.does_not_wait("")

    def test_a_transaction_that_does_not_end_and_little_time(self):
        self.does_not_wait("barrier_limit_ms=600\n")

    def does_not_wait(self, limits):
        self.start(limits)
        self.prepare("1" * 32)
        holder = self.transaction()
        self.quiesce()
        entry = self.app(self.attested())
        self.assertTrue(self.database.writes("beside it"))
        self.release()
        # "skewed", or "failed" where the machine is so slow that there was no time left for a dump without locks.
        self.assertNotEqual(entry["exactness"], "exact", entry)
        self.assertTrue(entry["reason"])
        holder.communicate("ROLLBACK;\n", timeout=20)
        self.finish("1" * 32)

    def test_server_hangs(self):
        """The freeze fails in time, holds nothing, and the next one works when the server does."""
        self.start("barrier_limit_ms=1000\n")
        self.prepare("1" * 32)
        self.database.signal_all(signal.SIGSTOP)
        try:
            self.assertEqual(self.hook("freeze").returncode, 1)
        finally:
            self.database.signal_all(signal.SIGCONT)
        report = self.report("1" * 32)
        self.assertFalse(report["quiesced"])
        self.assertTrue(report["failure"])
        wait_until(lambda: self.database.writes("beside it"), 10, "the locks are still held")
        self.finish("1" * 32)
        wait_until(lambda: self.sessions() == 0, 10, "sessions are left")
        self.quiesce()
        self.release()

    def test_agent_is_killed_while_it_holds(self):
        """The sessions die with it, and the locks with them."""
        self.start()
        self.quiesce()
        self.assertFalse(self.database.writes("held back"))
        self.addCleanup(end_all, self.watchdogs())
        self.agent.kill()
        wait_until(lambda: self.database.writes("free again"), 10, "the locks are still held")
        self.agent.wait()
        # A new agent begins afresh; the hook's thaw of the old window is right.
        self.start()
        self.release()
        self.quiesce()
        self.release()


def comparable(dump):
    """Without the random key of newer pg_dumps."""
    return [line for line in dump.split(b"\n") if not line.startswith((b"\\restrict ", b"\\unrestrict "))]


if __name__ == "__main__":
    unittest.main(verbosity=2)
