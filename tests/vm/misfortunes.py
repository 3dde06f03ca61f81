#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong with a real guest: one clear line, a documented exit code, a thawed guest, nothing listed in part, and
the next backup works."""

import contextlib
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.companion import Companion
from support.scratch import run, wait_until
from support.suite import WithGuest, run_with_guest

OWN_VIEW = pathlib.PurePosixPath("/run/systemd/system/stillpoint-agent.service.d/own-view.conf")
NOT_FOUND, QUIESCE, CAPTURE, STORAGE = 4, 6, 7, 8  # docs/man/stillpoint.1

# Takes the agent's place at the port that the companion plugs in, and sends what the argument says.
IMPOSTOR = """\
import os, sys, time
path = "/dev/virtio-ports/org.stillpoint.agent.0"
while True:
    try:
        port = os.open(path, os.O_RDWR)
    except OSError:
        time.sleep(0.05)
        continue
    try:
        os.read(port, 4096)
        os.write(port, eval(sys.argv[1]))
        while os.read(port, 4096):
            pass
    except OSError:
        pass
    os.close(port)
    time.sleep(0.05)
"""
LIES = {
    # A length of 4 GiB, and what is no frame at all.
    "garbage": "b'SPF1' + bytes([1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]) + os.urandom(200000)",
    "nothing": "b''",
}


class Backups(WithGuest):
    def start_backup(self, *arguments):
        command = [self.companion.program, "backup", self.guest.name, "--no-trees", "--no-dumps", *arguments]
        command += ["--repository", self.companion.repository, "--connect", self.libvirtd.uri]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def job_runs(self):
        return "None" not in self.libvirtd.virsh("domjobinfo", self.guest.name).stdout.split()


class Misfortunes(Backups):
    """Every method leaves the guest able to be backed up, which tearDown() tries."""

    @classmethod
    def setUpClass(cls):
        cls.companion.backup(cls.guest.name, "--no-trees", "--no-dumps")

    def setUp(self):
        self.listed = self.companion.json("list")

    def tearDown(self):
        self.assertIn("running", self.libvirtd.virsh("domstate", self.guest.name).stdout)
        manifest = self.companion.backup(self.guest.name, "--no-trees", "--no-dumps", "--require", "application")
        self.assertTrue(all(disk["incremental"] for disk in manifest["disks"] if disk["format"] == "qcow2"), manifest)
        # The guest lets go of a port when it gets to it.
        wait_until(lambda: "org.stillpoint.agent.0" not in self.libvirtd.virsh("dumpxml", self.guest.name).stdout, 60, "no port", 0.5)

    def fails(self, code, *arguments, companion=None, says=""):
        """A backup that ends with that code, one line that says why, and nothing listed, in a guest that writes on."""
        companion = companion or self.companion
        done = companion.run("backup", self.guest.name, "--no-trees", *arguments, check=False)
        self.failed(done.returncode, done.stderr, code, says)
        return done

    def failed(self, status, errors, code, says=""):
        self.assertEqual(status, code, errors)
        self.assertEqual(len([line for line in errors.splitlines() if line.startswith("stillpoint: ")]), 1, errors)
        self.assertIn(says, errors)
        self.assertEqual(self.companion.json("list"), self.listed)
        self.writes_on()

    def writes_on(self):
        self.guest.sh("touch /srv/written /var/lib/postgresql/written /written && sync && rm /srv/written", 60)

    @contextlib.contextmanager
    def impostor(self, lie):
        self.guest.write_file("/run/impostor", IMPOSTOR.encode())
        self.guest.sh(
            "systemctl stop stillpoint-agent\n"
            f'systemd-run -q --collect --unit=impostor python3 /run/impostor "{lie}"'
        )
        try:
            yield
        finally:
            self.guest.sh("systemctl stop impostor; systemctl start stillpoint-agent")

    def test_a_channel_that_lies(self):
        for what, lie in LIES.items():
            with self.subTest(what), self.impostor(lie):
                if what == "nothing":  # without our agent its hook lets nobody freeze
                    self.fails(QUIESCE, "--require", "filesystem", says="could not be frozen")
                else:
                    self.fails(QUIESCE, "--require", "application", says="application is required")

    def test_an_agent_that_hangs(self):
        pid = self.guest.sh("systemctl show -P MainPID stillpoint-agent").strip()
        self.guest.sh(f"kill -STOP {pid}")
        try:
            self.fails(QUIESCE, says="could not be frozen")
        finally:
            self.guest.sh(f"kill -CONT {pid}")

    def test_a_report_that_is_not_in_the_block_snapshot(self):
        """The agent says that it has written one: into a directory that only it sees."""
        again = "systemctl daemon-reload && systemctl restart stillpoint-agent"
        self.guest.sh(
            f"mkdir -p {OWN_VIEW.parent} /run/elsewhere\n"
            f"printf '[Service]\\nBindPaths=/run/elsewhere:/var/lib/stillpoint\\n' >{OWN_VIEW}\n{again}"
        )
        try:
            self.fails(QUIESCE, says="not in the block snapshot: the report there is of another still point")
            manifest = self.companion.backup(self.guest.name, "--no-trees", "--no-dumps", "--require", "filesystem")
            self.assertEqual(manifest["grade"], "filesystem")
        finally:
            self.guest.sh(f"rm {OWN_VIEW}\n{again}")

    def test_a_repository_without_room(self):
        small = self.scratch / "small"
        small.mkdir()
        run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], 10)
        try:
            companion = Companion(self.companion.program, self.companion.uri, small / "repository")
            companion.init()
            self.fails(STORAGE, companion=companion, says="make room")
            self.assertEqual(companion.json("list"), [])
        finally:
            run(["umount", small], 10)

    def test_a_domain_or_a_disk_that_is_not_there(self):
        done = self.companion.run("backup", "nobody", check=False)
        self.assertEqual(done.returncode, NOT_FOUND, done.stderr)
        self.assertIn("nobody", done.stderr)
        self.fails(NOT_FOUND, "--disk", "vdz", says="vdz")

    def test_a_freeze_that_takes_too_long(self):
        self.fails(QUIESCE, "--max-freeze", "1ms", says="web1")

    def test_a_job_that_is_aborted(self):
        backup = self.start_backup("--full")
        wait_until(self.job_runs, 60, "the backup job", 0.01)
        self.libvirtd.virsh("domjobabort", self.guest.name)
        _output, errors = backup.communicate(timeout=60)
        self.failed(backup.returncode, errors, CAPTURE)

    def test_a_guest_that_somebody_left_frozen(self):
        wait_until(lambda: self.libvirtd.virsh("domfsfreeze", self.guest.name, check=False).returncode == 0, 90, "a freeze", 2)
        done = self.companion.run("backup", self.guest.name, "--require", "filesystem", check=False)
        self.assertEqual(done.returncode, QUIESCE, done.stderr)
        self.assertIn("stillpoint thaw", done.stderr)
        self.assertEqual(self.companion.json("thaw", self.guest.name)["thawed"], 3)
        self.writes_on()
        self.assertEqual(self.companion.json("thaw", self.guest.name)["thawed"], 0)
        self.assertEqual(self.companion.json("thaw", self.guest.name, "--force")["thawed"], 0)
        self.assertEqual(self.companion.json("list"), self.listed)

    def test_the_companion_is_killed_in_the_window(self):
        backup = self.start_backup()
        wait_until(lambda: self.guest.qga("guest-fsfreeze-status", check=False) == "frozen", 60, "the freeze", 0.01)
        backup.send_signal(signal.SIGKILL)
        backup.wait(10)
        wait_until(lambda: self.guest.qga("guest-fsfreeze-status", check=False) == "thawed", 60, "the thaw", 0.2)
        self.writes_on()
        self.assertEqual(self.companion.json("list"), self.listed)

    def test_the_companion_is_killed_while_it_reads(self):
        backup = self.start_backup("--full")
        wait_until(self.job_runs, 60, "the backup job", 0.01)
        backup.send_signal(signal.SIGKILL)
        backup.wait(10)
        self.writes_on()
        self.assertEqual(self.companion.json("list"), self.listed)

    def test_a_disk_that_comes_and_goes(self):
        source = next(path for target, _format, path in self.guest.disks if target == "vdc")
        self.guest.sh("umount /srv")
        self.libvirtd.virsh("detach-disk", self.guest.name, "vdc")
        wait_until(lambda: "vdc" not in self.libvirtd.virsh("domblklist", self.guest.name).stdout, 60, "vdc to go", 0.2)
        try:
            manifest = self.companion.backup(self.guest.name, "--no-trees", "--no-dumps")
            self.assertEqual([disk["target"] for disk in manifest["disks"]], ["vda", "vdb"])
        finally:
            self.libvirtd.virsh("attach-disk", self.guest.name, source, "vdc", "--subdriver", "raw", "--cache", "unsafe")
            self.guest.sh("for try in $(seq 50); do mount /srv && exit; sleep 0.2; done; exit 1", 60)


class ZLast(Backups):
    """Ends the guest."""

    def test_the_guest_is_destroyed_while_it_is_read(self):
        listed = self.companion.json("list")
        backup = self.start_backup("--full")
        wait_until(self.job_runs, 60, "the backup job", 0.01)
        self.libvirtd.virsh("destroy", self.guest.name)
        _output, errors = backup.communicate(timeout=60)
        self.assertEqual(backup.returncode, CAPTURE, errors)
        self.assertEqual(self.companion.json("list"), listed)
        self.assertEqual(self.companion.backup(self.guest.name, "--no-trees")["grade"], "crash")


if __name__ == "__main__":
    run_with_guest(failfast=False)
