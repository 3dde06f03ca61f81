#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Still points of a guest whose databases lie on two RBD images, under write load; restored to another cluster, and booted there."""

import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import DISK, Ceph
from support.guest import Guest
from support.load import counts, start_load, stop_load
from support.proof import prove_databases
from support.scratch import wait_until
from support.suite import WithGuest, run_with_guest

CAPTURE = 7
ON_CEPH = ("vda", "vdb")  # MariaDB, PostgreSQL


class OnCeph(WithGuest):
    """The guest's disks are moved to a cluster while it runs, and back at the end."""

    manifests = []

    @classmethod
    def setUpClass(cls):
        cls.begin_anew("on-ceph")
        cls.ceph = cls.enterClassContext(Ceph(cls.scratch / "first-cluster"))
        cls.other = cls.enterClassContext(Ceph(cls.scratch / "other-cluster"))
        for target in ON_CEPH:
            cls.ceph.take_disk(cls.libvirtd, cls.guest, target)
        start_load(cls.guest)

    @classmethod
    def tearDownClass(cls):
        stop_load(cls.guest)
        for target, format_, path in cls.guest.disks:
            if target in ON_CEPH:
                path.unlink()
                cls.copy(target, path, "--format", format_)

    @classmethod
    def copy(cls, target, *where):
        cls.libvirtd.virsh("blockcopy", cls.guest.name, target, *where, "--transient-job", "--wait", "--pivot", timeout=300)

    def backup(self, *arguments):
        manifest = self.companion.backup(self.guest.name, "--no-trees", *arguments)
        self.manifests.append(manifest)
        return manifest

    def thawed(self):
        return self.guest.qga("guest-fsfreeze-status", check=False) == "thawed"

    def test_1_two_images_and_a_file_in_one_window(self):
        manifest = self.backup("--require", "application")
        self.assertEqual(manifest["grade"], "application", manifest["grade_reasons"])
        self.assertEqual({d["target"] for d in manifest["disks"] if d.get("rbd")}, set(ON_CEPH))
        self.assertEqual([d["exactness"] for d in manifest["report"]["databases"] if d["exactness"] != "exact"], [])
        self.assertEqual(manifest["window"]["frozen"], manifest["window"]["thawed"])

    def test_2_what_changed_under_load(self):
        manifest = self.backup("--require", "application")
        for disk in manifest["disks"]:
            if disk["target"] in ON_CEPH:
                self.assertTrue(disk["incremental"], disk)
                self.assertLess(disk["read"], self.manifests[0]["disks"][0]["read"] / 4)
        self.assertEqual(self.ceph.rbd("group", "ls", "rbd"), "")

    def test_3_restored_to_another_cluster_and_booted_there(self):
        manifest = self.manifests[-1]
        files = self.scratch / "moved-files"
        files.mkdir()
        for target in ON_CEPH:
            self.companion.run("restore", manifest["name"], "--disk", target, "--to-rbd", f"rbd/moved-{target}",
                               "--ceph-conf", self.other.conf)
        vdc = self.companion.restore(manifest["name"], "vdc", files / "vdc.raw", "raw")
        guest = Guest(self.libvirtd, self.image, "moved", [("vdc", "raw", vdc)], self.kind, files)
        disks = "".join(DISK.format(image=f"rbd/moved-{t}", conf=self.other.conf, target=t) for t in ON_CEPH)
        guest.xml = guest.xml.replace("<disk ", disks + "<disk ", 1)
        with guest:
            guest.wait_agent()
            guest.wait_databases()
            for row in prove_databases(self.companion, manifest, guest):
                with self.subTest(row.what):
                    self.assertTrue(row.good, f"{row.what}: {row.found}\n{row.detail}")

    def test_4_a_cluster_that_stands_still_in_the_window(self):
        """The guest is thawed, nothing is listed, and its writers go on when the cluster does."""
        listed = self.companion.json("list")
        pauses = self.scratch / "ceph-pauses"
        pauses.mkdir()
        (pauses / "begin-job").touch()
        command = [self.companion.program, "backup", self.guest.name, "--no-trees", "--repository", self.companion.repository]
        with subprocess.Popen(
            [*command, "--connect", self.companion.uri], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "STILLPOINT_TEST_PAUSE": str(pauses)},
        ) as backup:
            wait_until((pauses / "begin-job.reached").exists, 60, "the window")
            self.ceph.signal("osd", signal.SIGSTOP)
            try:
                (pauses / "begin-job.reached").unlink()
                # It thaws its file systems, and then may wait for its disks itself.
                time.sleep(18)
            finally:
                self.ceph.signal("osd", signal.SIGCONT)
            try:
                _, errors = backup.communicate(timeout=120)
            finally:
                backup.kill()
        wait_until(self.thawed, 60, "the guest is thawed", 0.5)
        self.assertEqual(backup.returncode, CAPTURE, errors)
        # QEMU's job, for the disk that is a file, waits for the others too.
        self.assertRegex(errors, "did not take the RBD snapshots|does not begin the backup job")
        self.assertEqual(self.companion.json("list"), listed)
        before = counts(self.guest)
        wait_until(lambda: all(counts(self.guest)[engine] > before[engine] for engine in before), 60, "the writers go on", 1)
        self.assertEqual(self.backup("--require", "application")["grade"], "application")
        self.assertEqual(self.ceph.rbd("group", "ls", "rbd"), "")


if __name__ == "__main__":
    run_with_guest(companion=False)
