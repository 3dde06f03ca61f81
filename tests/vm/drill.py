#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drills that fail, and say what is wrong. Every one boots a guest: run by hand (docs/hacking.md)."""

import json
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.companion import Companion
from support.documents import reseal
from support.load import start_load
from support.scratch import run, wait_until
from support.suite import WithGuest, run_with_guest

NO_BARRIER = "/run/systemd/system/stillpoint-agent.service.d/test.conf"
NO_AGENT = "/etc/systemd/system/stillpoint-agent.service.d/impostor.conf"
INTERRUPTED, DRILL_FAILED = 11, 13  # docs/man/stillpoint.1
# In the drilled guest only: takes the agent's place at its port, and sends what no agent does.
IMPOSTOR = """\
import os, time
while True:
    try:
        port = os.open("/dev/virtio-ports/org.stillpoint.agent.0", os.O_RDWR)
        os.read(port, 4096)
        os.write(port, os.urandom(100000))
        while os.read(port, 4096):
            pass
    except OSError:
        time.sleep(0.1)
"""
IMPOSTOR_UNIT = """\
[Service]
ExecStart=/usr/bin/python3 /var/lib/impostor.py
[Install]
WantedBy=multi-user.target
"""


def read_if_there(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


class Drill(WithGuest):
    def setUp(self):
        self.begun = time.monotonic()

    def tearDown(self):
        """Nothing is left, and the first domain is as it was."""
        print(f"    {time.monotonic() - self.begun:.0f} s", flush=True)
        self.assertEqual(self.libvirtd.virsh("list", "--all", "--name").stdout.split(), ["web1"])
        self.assertEqual(list(self.scratch.glob("drill*")), [])
        wait_until(lambda: not self.servers(), 30, "the disks' servers end")
        self.assertNotIn("stillpoint-drill", pathlib.Path("/proc/mounts").read_text(encoding="utf-8"))
        self.guest.sh("touch /srv/written && rm /srv/written")

    def servers(self):
        return [
            path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
            if b"nbdkit" in (line := read_if_there(path)) and str(self.scratch).encode() in line
        ]

    def command(self, companion, name, *arguments):
        command = [companion.program, "drill", name, "--json", "--directory", self.scratch / "drill", *arguments]
        return [*command, "--repository", companion.repository, "--connect", self.libvirtd.uri]

    def drill(self, name, *arguments, companion=None):
        """The exit code and the record."""
        done = run(self.command(companion or self.companion, name, *arguments), 900, check=False)
        self.assertIn(done.returncode, (0, DRILL_FAILED), done.stderr)
        record = json.loads(done.stdout)
        self.assertEqual(record["passed"], done.returncode == 0)
        self.assertTrue(record["recorded"])
        return record

    def failures(self, record):
        return {(step["kind"], step["name"]): step["detail"] for step in record["steps"] if step["outcome"] == "failed"}

    def changed_copy(self, name):
        """A repository of its own, to be damaged."""
        path = self.scratch / name
        run(["cp", "-a", "--reflink=auto", self.companion.repository, path], 300)
        self.addCleanup(run, ["rm", "-r", path], 60)
        return Companion(self.companion.program, self.libvirtd.uri, path)

    def test_1_a_good_one_passes(self):
        manifest = self.companion.backup("web1", "--require", "application")
        checkpoints = self.libvirtd.virsh("checkpoint-list", "--name", "web1").stdout
        record = self.drill("web1@latest")
        self.assertTrue(record["passed"], record)
        steps = {(step["kind"], step["name"]): step for step in record["steps"]}
        # MyISAM is not promised to be equal.
        self.assertEqual(steps.pop(("dump", "mariadb/default/legacy"))["outcome"], "skipped")
        self.assertTrue(all(step["outcome"] == "passed" for step in steps.values()), record)
        for name in (dump["name"] for dump in manifest["dumps"]):
            for kind in ("database",) if name == "mariadb/default/legacy" else ("database", "dump"):
                self.assertIn((kind, name), steps)
        self.assertIn("pg_amcheck", json.dumps(record))
        self.assertIn("mariadb-check", json.dumps(record))
        self.assertIn("e2fsck", json.dumps(record))
        self.assertTrue(self.companion.json("list")[0]["drill"]["passed"])
        self.assertIn("passed ", self.companion.run("list").stdout)
        self.assertIn("pg_amcheck", self.companion.run("show", "web1@latest").stdout)
        self.assertEqual(self.libvirtd.virsh("checkpoint-list", "--name", "web1").stdout, checkpoints)
        disks = self.companion.backup("web1", "--no-trees")["disks"]
        self.assertTrue(all(disk["incremental"] for disk in disks if disk["format"] == "qcow2"))

    def test_2_an_interrupted_one_leaves_nothing(self):
        name = self.companion.json("list")[0]["name"]
        drill = subprocess.Popen(self.command(self.companion, name, "--quick"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: "web1-drill" in self.libvirtd.virsh("list", "--name").stdout, 60, "the drill's domain")
        done = run(self.command(self.companion, name), 60, check=False)
        self.assertEqual(done.returncode, 10, "two drills of one domain")
        drill.send_signal(signal.SIGINT)
        _output, errors = drill.communicate(timeout=60)
        self.assertEqual(drill.returncode, INTERRUPTED, errors)
        self.assertTrue(self.companion.json("list")[0]["drill"]["passed"], "the last one that came to its end counts")

    def test_3_a_damaged_chunk(self):
        companion = self.changed_copy("damaged")
        name = companion.json("list")[0]["name"]
        pack = max(companion.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)
        with open(pack, "r+b") as file:
            file.seek(pack.stat().st_size // 2)
            file.write(bytes(8192))
        failures = self.failures(self.drill(name, companion=companion))
        self.assertIn("disk", {kind for kind, _name in failures}, failures)
        self.assertNotIn("guest", {kind for kind, _name in failures}, "it was not even booted")
        self.assertFalse(companion.json("list")[0]["drill"]["passed"])

    def test_4_a_dump_that_was_swapped(self):
        companion = self.changed_copy("swapped")
        name = companion.json("list")[0]["name"]
        path = companion.repository / "manifests/web1" / name.partition("@")[2]
        swapped = []

        def swap(manifest):
            dumps = [dump for dump in manifest["dumps"] if "@" not in dump["name"]]
            swapped.extend((dumps[0], next(dump for dump in dumps if dump["name"].split("/")[0] != dumps[0]["name"].split("/")[0])))
            swapped[0]["map"], swapped[1]["map"] = swapped[1]["map"], swapped[0]["map"]

        reseal(path, swap)
        failures = self.failures(self.drill(name, "--quick", companion=companion))
        self.assertEqual(set(failures), {("dump", dump["name"]) for dump in swapped}, failures)
        self.assertTrue(all("differs in line " in detail for detail in failures.values()), failures)

    def test_5_a_guest_that_does_not_come_up(self):
        name = self.companion.json("list")[0]["name"]
        failures = self.failures(self.drill(name, "--quick", "--answer-within", "3s"))
        self.assertIn("did not come up within 3 s", failures[("guest", "web1-drill")])
        failures = self.failures(self.drill(name, "--quick", "--timeout", "4s"))
        self.assertIn("not over 4 s", " ".join(failures.values()))

    def test_6_an_agent_that_lies(self):
        self.guest.write_file("/var/lib/impostor.py", IMPOSTOR.encode())
        self.guest.write_file("/etc/systemd/system/impostor.service", IMPOSTOR_UNIT.encode())
        # The agent that runs stays; it is the next boot that does without.
        self.guest.sh(f"mkdir -p $(dirname {NO_AGENT})")
        self.guest.write_file(NO_AGENT, b"[Unit]\nConditionPathExists=!/var/lib/impostor.py\n")
        self.guest.sh("systemctl enable impostor; sync")
        manifest = self.companion.backup("web1", "--no-trees")
        self.guest.sh(f"systemctl disable impostor; rm {NO_AGENT} /etc/systemd/system/impostor.service; systemctl daemon-reload")
        failures = self.failures(self.drill(manifest["name"], "--quick", "--answer-within", "2min"))
        self.assertEqual({kind for kind, _name in failures}, {"database"}, failures)

    def test_7_no_barrier(self):
        conf = "[Service]\\nEnvironment=STILLPOINT_TEST_NO_BARRIER=lie\\n"
        self.guest.sh(
            f"mkdir -p $(dirname {NO_BARRIER}); printf '{conf}' >{NO_BARRIER}\n"
            "systemctl daemon-reload; systemctl restart stillpoint-agent"
        )
        manifest = self.companion.backup("web1", "--no-trees")
        self.assertEqual(manifest["grade"], "application", "it lies")
        failures = self.failures(self.drill(manifest["name"], "--quick"))
        self.assertIn("dump", {kind for kind, _name in failures}, failures)
        self.assertTrue(any("differs in line" in detail for detail in failures.values()), failures)


run_with_guest(prepare=lambda suite: start_load(suite.guest), failfast=False)
