#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state that a domain keeps on the host: its firmware's variables and its emulated TPM, taken and brought back.

A domain of UEFI firmware, a TPM and an empty disk: it needs no operating system, and starts in a second.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.companion import Companion, built_companion  # noqa: E402
from support.libvirtd import Libvirtd, skip_unless_possible  # noqa: E402
from support.scratch import SKIPPED, run, say, scratch_directory, unwind_on_signals  # noqa: E402

CODE, VARS = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
DOMAIN = """\
<domain type='qemu'>
  <name>fw</name>
  <memory unit='MiB'>96</memory>
  <os>
    <type machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>{code}</loader>
    <nvram template='{vars}'/>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class InNamespace(Companion):
    """The companion where the private libvirtd is the machine's: the TPM's state has no other path."""

    def __init__(self, libvirtd, repository):
        super().__init__(built_companion(), "qemu:///system", repository)
        self._libvirtd = libvirtd

    def run(self, verb, *arguments, timeout=120, check=True, **options):
        command = self._libvirtd.inside(self.program, verb, "--repository", self.repository)
        if verb in ("backup", "boot", "drill", "restore"):
            command += ["--connect", self.uri]
        return run([*command, *arguments], timeout, check=check, **options)


class Firmware(unittest.TestCase):
    libvirtd = None
    scratch = None
    companion = None
    code = None  # the firmware: a copy, to be moved away

    @classmethod
    def setUpClass(cls):
        disk = cls.scratch / "vda.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"], 30)
        xml = cls.scratch / "fw.xml"
        xml.write_text(DOMAIN.format(code=cls.code, vars=VARS, disk=disk), encoding="ascii")
        cls.libvirtd.virsh("define", xml)
        cls.uuid = cls.libvirtd.virsh("domuuid", "fw").stdout.strip()
        cls.lib = cls.libvirtd.directory / "lib"
        cls.nvram = cls.lib / "qemu/nvram/fw_VARS.fd"
        cls.companion.init()

    def tpm(self, uuid):
        return self.lib / "swtpm" / uuid / "tpm2/tpm2-00.permall"

    def write_down(self):
        """What firmware and guest would write, told apart from everything else that is there."""
        with open(self.nvram, "r+b") as file:
            file.seek(300_000)
            file.write(hashlib.shake_256(os.urandom(8)).digest(5000))
        return self.nvram.read_bytes(), self.tpm(self.uuid).read_bytes()

    def backup(self, code=0):
        done = self.companion.run("backup", "fw", "--no-trees", "--json", check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout)

    def state(self, manifest):
        return {state["name"]: state for state in manifest["state"]}

    def test_1_a_domain_that_never_ran_has_none(self):
        manifest = self.backup()
        self.assertEqual(manifest["state"], [])
        self.assertEqual(manifest["warnings"], [])

    def test_2_of_a_running_domain(self):
        self.libvirtd.virsh("start", "fw")
        type(self).expected = nvram, tpm = self.write_down()
        manifest = type(self).first = self.backup()
        state = self.state(manifest)
        self.assertEqual(set(state), {"nvram", "tpm2-00.permall"})
        self.assertEqual(state["nvram"]["map"]["size"], len(nvram))
        self.assertEqual(state["tpm2-00.permall"]["map"]["size"], len(tpm))
        self.assertEqual(state["tpm2-00.permall"]["owner"], "root")
        shown = self.companion.run("show", manifest["name"]).stdout
        self.assertIn("Firmware and TPM", shown)
        self.assertIn("/var/lib/libvirt/qemu/nvram/fw_VARS.fd", shown)
        self.assertTrue((self.companion.repository / "features/ro_compat.state").exists())

    def test_3_booted_with_copies_of_its_own(self):
        nvram, tpm = self.expected
        boot = self.scratch / "boot"
        made = self.companion.json("boot", self.first["name"], "--name", "fw2", "--directory", boot)
        self.assertEqual(self.libvirtd.virsh("domstate", "fw2").stdout.strip(), "running")
        self.assertIn(f"{boot}/nvram.fd", self.libvirtd.virsh("dumpxml", "fw2").stdout)
        self.assertEqual((boot / "nvram.fd").read_bytes()[300_000:305_000], nvram[300_000:305_000])
        self.assertEqual((boot / "nvram.fd").stat().st_mode & 0o077, 0)
        self.assertNotEqual(made["uuid"], self.uuid)
        # What identifies a TPM is its seeds, and their certificates: swtpm rewrites the rest when it starts.
        self.assertEqual(self.tpm(made["uuid"]).read_bytes()[200:1200], tpm[200:1200])
        self.assertEqual(self.tpm(made["uuid"]).stat().st_mode & 0o077, 0)
        self.companion.run("boot", "--remove", "fw2", "--directory", boot)
        self.assertFalse(boot.exists())
        self.assertFalse((self.lib / "swtpm" / made["uuid"]).exists())
        self.assertTrue(self.tpm(self.uuid).exists())

    def test_3_booted_and_moved(self):
        images = self.scratch / "images"
        images.mkdir()
        made = self.companion.json("boot", self.first["name"], "--name", "fw3", "--directory", self.scratch / "boot3",
                                   "--commit", images)
        self.assertFalse((self.scratch / "boot3").exists())
        self.assertEqual({path.name for path in images.iterdir()}, {"fw3-vda.qcow2", "fw3-nvram.fd"})
        self.assertEqual((images / "fw3-nvram.fd").read_bytes()[300_000:305_000], self.expected[0][300_000:305_000])
        self.assertTrue(self.tpm(made["uuid"]).exists())
        self.libvirtd.virsh("destroy", "fw3")
        self.libvirtd.virsh("undefine", "fw3", "--nvram")

    def test_3_booted_and_moved_later(self):
        images, boot = self.scratch / "later", self.scratch / "boot5"
        images.mkdir()
        self.companion.run("boot", self.first["name"], "--name", "fw5", "--directory", boot)
        self.companion.run("boot", "--resume", "fw5", "--directory", boot, "--commit", images)
        self.assertEqual({path.name for path in images.iterdir()}, {"fw5-vda.qcow2"})
        self.assertEqual({path.name for path in boot.iterdir()}, {"nvram.fd"}, "its firmware's variables stay")
        self.libvirtd.virsh("destroy", "fw5")
        self.libvirtd.virsh("start", "fw5")
        self.libvirtd.virsh("destroy", "fw5")
        self.libvirtd.virsh("undefine", "fw5", "--nvram")

    def test_3_nothing_is_left_of_one_that_does_not_start(self):
        before = {path.name for path in (self.lib / "swtpm").iterdir()}
        self.code.rename(self.scratch / "away")
        try:
            done = self.companion.run("boot", self.first["name"], "--name", "fw4", "--directory", self.scratch / "boot4",
                                      check=False)
        finally:
            (self.scratch / "away").rename(self.code)
        self.assertNotEqual(done.returncode, 0)
        self.assertFalse((self.scratch / "boot4").exists())
        self.assertEqual({path.name for path in (self.lib / "swtpm").iterdir()}, before)

    def test_4_restored_into_a_directory(self):
        nvram, tpm = self.expected
        to = self.scratch / "restored"
        done = self.companion.json("restore", self.first["name"], "--to", to)
        self.assertEqual({file["kind"]: file["to"] for file in done["state"]},
                         {"nvram": f"{to}/fw-nvram.fd", "tpm": f"{to}/fw-tpm/tpm2-00.permall"})
        self.assertEqual((to / "fw-nvram.fd").read_bytes(), nvram)
        self.assertEqual((to / "fw-tpm/tpm2-00.permall").read_bytes(), tpm)
        self.assertIn(f">{to}/fw-nvram.fd</nvram>", (to / "fw.xml").read_text(encoding="utf-8"))
        # A running domain's TPM is not written over.
        done = self.companion.run("restore", self.first["name"], "--to", to, "--overwrite", "--define", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("shut it off first", done.stderr)

    def test_4_restored_as_a_new_domain(self):
        nvram, tpm = self.expected
        to = self.scratch / "new"
        done = self.companion.json("restore", self.first["name"], "--to", to, "--define", "--name", "fw5")
        uuid = self.libvirtd.virsh("domuuid", "fw5").stdout.strip()
        self.assertEqual((to / "fw5-nvram.fd").read_bytes(), nvram)
        self.assertEqual(self.tpm(uuid).read_bytes(), tpm)
        self.assertIn(f"/var/lib/libvirt/swtpm/{uuid}/tpm2/tpm2-00.permall", [file["to"] for file in done["state"]])
        # libvirt takes both as they are: it makes neither anew.
        self.libvirtd.virsh("start", "fw5")
        self.libvirtd.virsh("destroy", "fw5")
        self.assertEqual((to / "fw5-nvram.fd").read_bytes()[300_000:305_000], nvram[300_000:305_000])
        self.assertEqual(self.tpm(uuid).read_bytes()[200:1200], tpm[200:1200])
        self.libvirtd.virsh("undefine", "fw5", "--nvram")

    @unittest.skipUnless(os.path.exists("/dev/fuse"), "there is no /dev/fuse")
    def test_4_shown_in_a_mount(self):
        point = self.scratch / "mnt"
        point.mkdir()
        command = [self.companion.program, "--repository", self.companion.repository, "mount", self.first["name"], point]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                self.assertIn("mounted", process.stdout.readline())
                for name, content in zip(("nvram.fd", "tpm/tpm2-00.permall"), self.expected):
                    self.assertEqual((point / "state" / name).read_bytes(), content)
                    self.assertEqual((point / "state" / name).stat().st_mode & 0o777, 0o400)
                self.assertEqual(sorted(os.listdir(point / "state")), ["nvram.fd", "tpm"])
            finally:
                process.terminate()
                self.assertEqual(process.wait(30), 0)

    def test_5_of_one_that_is_shut_off_and_in_place(self):
        self.libvirtd.virsh("destroy", "fw")
        nvram, tpm = self.write_down()
        name = self.backup()["name"]
        self.nvram.write_bytes(bytes(len(nvram)))
        self.nvram.chmod(0o640)
        self.tpm(self.uuid).write_bytes(b"gone")
        self.companion.run("restore", name, "--in-place", "--overwrite")
        self.assertEqual(self.nvram.read_bytes(), nvram)
        self.assertEqual(self.nvram.stat().st_mode & 0o777, 0o640, "as the one that it replaces")
        self.assertEqual(self.tpm(self.uuid).read_bytes(), tpm)
        self.assertEqual([path.name for path in self.nvram.parent.iterdir()], ["fw_VARS.fd"])

    def test_6_what_cannot_be_read_is_said(self):
        # Whoever runs the guest could put a link there.
        secret = self.scratch / "secret"
        secret.write_text("the host's own", encoding="ascii")
        kept = self.nvram.read_bytes()
        self.nvram.unlink()
        self.nvram.symlink_to(secret)
        try:
            manifest = self.backup(code=12)
            self.assertIn("cannot open", self.state(manifest)["nvram"]["failure"])
            done = self.companion.json("restore", manifest["name"], "--to", self.scratch / "part")
            self.assertIn("not captured", done["left_out"][0])
        finally:
            self.nvram.unlink()
            self.nvram.write_bytes(kept)
        with open(self.nvram, "r+b") as file:
            file.truncate((64 << 20) + 1)
        try:
            self.assertIn("more than", self.state(self.backup(code=12))["nvram"]["failure"])
        finally:
            self.nvram.write_bytes(kept)

    def test_7_verified_and_kept_by_prune(self):
        name = self.backup()["name"]
        self.companion.run("prune", "--keep-last", "1")
        self.companion.run("verify", "--read-data")
        done = self.companion.json("restore", name, "--to", self.scratch / "pruned")
        self.assertEqual((self.scratch / "pruned/fw-nvram.fd").read_bytes(), self.nvram.read_bytes())
        self.assertEqual(len(done["state"]), 2)
        for pack in (self.companion.repository / "packs").rglob("*"):
            if pack.is_file():
                pack.unlink()
        done = self.companion.run("verify", "--json", check=False)
        self.assertEqual(done.returncode, 9)
        reasons = json.loads(done.stdout)["damaged"][0]["reasons"]
        self.assertEqual({reason.split(":")[0] for reason in reasons}, {"nvram nvram", "tpm tpm2-00.permall"})


def main():
    unwind_on_signals()
    skip_unless_possible()
    for needed in (CODE, VARS, shutil.which("swtpm") or "/usr/bin/swtpm"):
        if not os.path.exists(needed):
            say(f"skipped: there is no {needed}")
            sys.exit(SKIPPED)
    with scratch_directory() as scratch, Libvirtd(scratch / "libvirtd") as libvirtd:
        Firmware.scratch, Firmware.libvirtd = scratch, libvirtd
        Firmware.code = scratch / "code.fd"
        shutil.copyfile(CODE, Firmware.code)
        Firmware.companion = InNamespace(libvirtd, scratch / "repository")
        result = unittest.main(argv=sys.argv, exit=False, failfast=True, verbosity=2).result
        if not result.wasSuccessful():
            print((scratch / "libvirtd/libvirtd.log").read_text(encoding="utf-8")[-3000:])
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
