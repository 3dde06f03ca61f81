#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of RBD images that others take freeze a real guest first, and nothing stays frozen, whoever dies."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph
from support.companion import built_companion
from support.scratch import Failure, run, wait_until
from support.suite import WithGuest, run_with_guest

USAGE, NOT_FOUND, UNREACHABLE = 2, 4, 5  # docs/man/stillpoint.1
REPORT = "/var/lib/stillpoint/report.json"
IDLE = """\
<domain type='qemu'>
  <name>idle</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
"""


class Watcher:
    """stillpoint quiesce-watch in its own process, from when it watches."""

    def __init__(self, suite, domain, images, arguments=(), state="watching"):
        self.out = suite.scratch / f"watch-{next(suite.numbers)}"
        self.errors = self.out.with_suffix(".err")
        self.pause = self.out.with_suffix(".pause")
        self.pause.mkdir()
        command = [built_companion(), "quiesce-watch", "--json", "--connect", suite.libvirtd.uri, domain, "--ceph-conf", suite.ceph.conf]
        for image in images:
            command += ["--image", image]
        with open(self.out, "wb") as out, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen([*command, *arguments], stdout=out, stderr=errors, stdin=subprocess.DEVNULL,
                                            env={**os.environ, "STILLPOINT_TEST_PAUSE": str(self.pause)})
        suite.addCleanup(self.kill)
        self.wait_for(state)

    def told(self, event):
        return [each for each in map(json.loads, self.out.read_text(encoding="utf-8").splitlines()) if each["event"] == event]

    def wait_for(self, event, count=1):
        def there():
            if self.process.poll() is not None and len(self.told(event)) < count:
                raise Failure(f"quiesce-watch ended with {self.process.returncode}: {self.said()}")
            return len(self.told(event)) >= count

        wait_until(there, 90, f"{event} {count}", 0.05)
        return self.told(event)[-1]

    def said(self):
        return self.errors.read_text(encoding="utf-8")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)


class QuiesceWatch(WithGuest):
    """Every method leaves the guest thawed, and the cluster healthy."""

    numbers = itertools.count()
    ceph = None

    @classmethod
    def setUpClass(cls):
        if not pathlib.Path("/usr/bin/ceph-osd").exists():
            raise unittest.SkipTest("no ceph-osd here (packaging/install-deps test)")
        cls.ceph = cls.enterClassContext(Ceph(cls.scratch / "ceph"))
        for name in ("a", "b"):
            cls.image(name)

    @classmethod
    def image(cls, name):
        cls.ceph.rbd("create", "--size", "8M", f"rbd/{name}")
        return f"rbd/{name}"

    def tearDown(self):
        wait_until(lambda: self.status() == "thawed", 60, "the thaw", 0.2)
        self.guest.sh("touch /srv/written /written && sync && rm /srv/written", 60)

    def status(self):
        return self.guest.qga("guest-fsfreeze-status", check=False)

    def watch(self, *images, arguments=(), domain=None, state="watching"):
        return Watcher(self, domain or self.guest.name, images, arguments, state)

    def snapshot(self, image):
        """Begins to take one; a process."""
        command = ["rbd", "-c", self.ceph.conf, "--no-progress", "snap", "create", f"{image}@s{next(self.numbers)}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.ceph.environment)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def taken(self, image):
        process = self.snapshot(image)
        _out, errors = process.communicate(timeout=120)
        return process.returncode == 0, errors

    @contextlib.contextmanager
    def held(self, watcher, image):
        """In a window that nobody ends: who takes the snapshot stands still from before he is answered."""
        (watcher.pause / "hold").touch()
        process = self.snapshot(image)
        wait_until((watcher.pause / "hold.reached").exists, 90, "the window", 0.02)
        self.assertEqual(self.status(), "frozen")
        process.send_signal(signal.SIGSTOP)
        (watcher.pause / "hold.reached").unlink()
        wait_until(lambda: f"stands still for a snapshot of {image}" in watcher.said(), 40, "the answer", 0.02)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)

    def refused(self, code, *arguments, says):
        done = run([built_companion(), "quiesce-watch", "--connect", self.libvirtd.uri, *arguments, "--ceph-conf", self.ceph.conf], 60, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(len([line for line in done.stderr.splitlines() if line.startswith("stillpoint: ")]), 1, done.stderr)
        self.assertIn(says, done.stderr)

    def test_1_one_snapshot(self):
        watcher = self.watch("rbd/a", "rbd/b")
        self.assertEqual(self.taken("rbd/a"), (True, ""))
        told = watcher.wait_for("snapshot")
        self.assertEqual(told["images"], ["rbd/a"])
        self.assertEqual((told["grade"], told["grade_reasons"]), ("application", []))
        self.assertEqual((told["frozen"], told["thawed"]), (3, 3))
        report = json.loads(self.guest.read_file(REPORT))
        self.assertEqual((report["id"], report["quiesced"]), (told["id"], True))
        # The next one too, and then it ends at once.
        self.assertEqual(self.taken("rbd/b"), (True, ""))
        self.assertEqual(watcher.wait_for("snapshot", 2)["images"], ["rbd/b"])
        watcher.process.terminate()
        self.assertEqual(watcher.process.wait(30), 0)
        self.assertEqual(self.taken("rbd/b"), (True, ""))

    def test_2_a_group_is_one_freeze(self):
        self.ceph.rbd("group", "create", "rbd/both")
        for name in ("a", "b"):
            self.ceph.rbd("group", "image", "add", "rbd/both", f"rbd/{name}")
        watcher = self.watch("rbd/a", "rbd/b")
        self.ceph.rbd("group", "snap", "create", "rbd/both@one")
        told = watcher.wait_for("snapshot")
        self.assertEqual((told["images"], told["grade"]), (["rbd/a", "rbd/b"], "application"))
        self.assertEqual(len(watcher.told("snapshot")), 1)

    def test_3_a_guest_that_somebody_else_holds(self):
        """As a backup does. Its window is not ended."""
        self.libvirtd.virsh("domfsfreeze", self.guest.name)
        try:
            strict = self.watch("rbd/a")
            lenient = self.watch("rbd/b", arguments=["--best-effort"])
            good, errors = self.taken("rbd/a")
            self.assertFalse(good)
            self.assertIn("busy", errors)
            self.assertIn("already frozen", strict.said())
            self.assertEqual(self.taken("rbd/b"), (True, ""))
            self.assertIn("grade crash", lenient.said())
            self.assertEqual(self.status(), "frozen")
        finally:
            self.libvirtd.virsh("domfsthaw", self.guest.name)
        self.assertEqual(self.taken("rbd/a"), (True, ""))
        self.assertEqual(strict.wait_for("snapshot")["grade"], "application")

    def test_3_somebody_else_is_faster_by_a_moment(self):
        watcher = self.watch("rbd/b")
        (watcher.pause / "freeze-call").touch()
        process = self.snapshot("rbd/b")
        wait_until((watcher.pause / "freeze-call.reached").exists, 90, "the freeze call", 0.02)
        self.libvirtd.virsh("domfsfreeze", self.guest.name)
        try:
            (watcher.pause / "freeze-call.reached").unlink()
            _out, errors = process.communicate(timeout=120)
            self.assertIn("busy", errors)
            self.assertIn("already frozen", watcher.said())
            self.assertEqual(self.status(), "frozen")
        finally:
            self.libvirtd.virsh("domfsthaw", self.guest.name)

    def test_4_without_the_agent(self):
        """Its hook lets nobody freeze."""
        watcher = self.watch("rbd/a")
        self.guest.sh("systemctl stop stillpoint-agent")
        try:
            good, _errors = self.taken("rbd/a")
            self.assertFalse(good)
            self.assertIn("could not be frozen", watcher.said())
        finally:
            self.guest.sh("systemctl start stillpoint-agent")
        self.assertEqual(self.taken("rbd/a"), (True, ""))

    def test_5_a_snapshot_that_is_never_complete(self):
        watcher = self.watch(self.image("limit"), arguments=["--max-freeze", "4s"])
        with self.held(watcher, "rbd/limit"):
            told = watcher.wait_for("snapshot")
            self.assertEqual(told["grade"], "crash")
            self.assertIn("took longer than 4", told["grade_reasons"][0])
            self.assertEqual(self.status(), "thawed")
        self.assertIsNone(watcher.process.poll())

    def test_5_sigterm_in_the_window(self):
        watcher = self.watch(self.image("term"), arguments=["--max-freeze", "15s"])
        with self.held(watcher, "rbd/term"):
            watcher.process.terminate()
            self.assertEqual(watcher.process.wait(60), 0, watcher.said())
            self.assertEqual(self.status(), "thawed")
            self.assertIn("the watch ends", watcher.told("snapshot")[0]["grade_reasons"][0])

    def test_5_sigkill_in_the_window(self):
        watcher = self.watch(self.image("kill"), arguments=["--max-freeze", "15s"])
        with self.held(watcher, "rbd/kill"):
            watcher.kill()
            wait_until(lambda: self.status() == "thawed", 60, "the thaw", 0.1)

    def test_6_libvirtd_and_the_osd_start_again(self):
        watcher = self.watch("rbd/a", arguments=["--max-freeze", "15s"])
        self.libvirtd.kill()
        self.ceph.stop("osd")
        self.ceph.wait_for_osd(up=False)
        self.ceph.start("osd")
        self.libvirtd.start()
        self.ceph.wait_for_osd()
        wait_until(lambda: self.watchers("rbd/a"), 60, "librbd watches again")
        self.guest.wait_agent()
        # An OSD that has just started may be slow; but every snapshot is asked for.
        for number in range(1, 4):
            self.assertEqual(self.taken("rbd/a"), (True, ""))
            told = watcher.wait_for("snapshot", number)
            if told["grade"] == "application":
                break
            self.assertIn("took longer", told["grade_reasons"][0])
        self.assertEqual(told["grade"], "application", watcher.said())

    def watchers(self, image):
        return json.loads(self.ceph.rbd("status", "--format", "json", image))["watchers"]

    def test_7_cut_off_from_the_cluster(self):
        watcher = self.watch("rbd/a")
        for each in self.watchers("rbd/a"):
            self.ceph.ask({"prefix": "osd blocklist", "blocklistop": "add", "addr": each["address"]})
        self.assertEqual(watcher.process.wait(60), UNREACHABLE, watcher.said())

    def test_8_a_domain_that_comes_and_goes(self):
        definition = self.scratch / "idle.xml"
        definition.write_text(IDLE, encoding="utf-8")
        self.libvirtd.virsh("define", definition)
        try:
            watcher = self.watch(self.image("idle"), domain="idle", state="waiting")
            self.assertEqual(self.watchers("rbd/idle"), [])
            self.libvirtd.virsh("start", "idle")
            watcher.wait_for("watching")
            self.assertNotEqual(self.watchers("rbd/idle"), [])
            self.libvirtd.virsh("destroy", "idle")
            self.assertEqual(self.taken("rbd/idle"), (True, ""))
            watcher.wait_for("waiting", 2)
            self.ceph.rbd("snap", "purge", "--no-progress", "rbd/idle")
            self.ceph.rbd("rm", "--no-progress", "rbd/idle")
        finally:
            self.libvirtd.virsh("destroy", "idle", check=False)
            self.libvirtd.virsh("undefine", "idle")

    def test_9_what_is_not_there(self):
        self.refused(NOT_FOUND, self.guest.name, "--image", "rbd/nothing", says="rbd/nothing")
        self.refused(NOT_FOUND, "nobody", "--image", "rbd/a", says="nobody")
        self.refused(USAGE, self.guest.name, "--image", "rbd/a", "--max-freeze", "30s", says="--max-freeze")


if __name__ == "__main__":
    run_with_guest(companion=False, failfast=False)
