#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks restored to logical volumes that are made for them: thick and thin, and what is left when it goes wrong.

By hand, as root; five minutes where the guest's processor is emulated. This machine's kernel may have no device mapper:
the test runs in a guest with another kernel, whose root file system is this machine's, by virtiofs, below an overlay that
is thrown away. A method's name runs that alone (volume-groups.py VolumeGroups.test_1_thick).
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.appliance import kernel_of_its_own  # noqa: E402
from support.companion import Companion, built_companion  # noqa: E402
from support.libvirtd import Libvirtd, skip_unless_possible  # noqa: E402
from support.scratch import Failure, run, say, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"  # of qemu-system-common
MODULES = "virtio_pci virtio_blk virtiofs overlay dm_mod dm_thin_pool dm_snapshot ext4".split()
LVM_LIMIT = 300  # Seconds; one command takes a busy machine a minute.
PASSED = "volume-groups: passed"
MIB = 1 << 20
# No multiple of an extent, nor of a page.
SIZES = {"vda": 46 * MIB + 512, "vdb": 20 * MIB}

INIT = """#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module"; done </modules/order
mkdir -p /host /over
mount -t virtiofs -o ro host /host
mount -t tmpfs -o size=1g over /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /root
for name in dev proc sys; do mount --move /$name /root/$name; done
for name in run tmp; do mount -t tmpfs tmpfs /root/$name; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
chroot /root {command} >/root/dev/ttyS0 2>&1
echo "volume-groups: code $?" >/root/dev/ttyS0
/bin/busybox poweroff -f
"""
DOMAIN = """\
<domain type='qemu'><name>vg-test</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{0}/vda.raw'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{0}/vdb.qcow2'/><target dev='vdb' bus='virtio'/></disk>
</devices></domain>
"""


def make_image(path, size):
    """Data, holes, and zeros that are written."""
    with open(path, "wb") as image:
        image.write(hashlib.shake_256(path.name.encode()).digest(3 * MIB + 17))
        image.seek(8 * MIB)
        image.write(bytes(2 * MIB))
        image.write(hashlib.shake_256(b"more").digest(MIB))
        image.seek(size - 4096)
        image.write(b"the end".ljust(4096, b"."))


class VolumeGroups(unittest.TestCase):
    """Inside."""

    scratch = pathlib.Path(os.environ.get("VOLUME_GROUPS_SCRATCH", "/nowhere"))

    @classmethod
    def setUpClass(cls):
        # There is no udev, so LVM makes its nodes itself.
        pathlib.Path("/etc/lvm/lvm.conf").write_text("activation { udev_sync=0 udev_rules=0 }\n", encoding="ascii")
        # What others have left there.
        with open("/dev/vda", "wb") as disk:
            for _ in range(600):
                disk.write(b"rubbish." * (MIB // 8))
        run(["pvcreate", "-q", "-y", "-ff", "-Zy", "/dev/vda"], LVM_LIMIT)
        run(["vgcreate", "-q", "vg", "/dev/vda"], LVM_LIMIT)
        run(["lvcreate", "-q", "-y", "-L", "150M", "-T", "vg/pool"], LVM_LIMIT)
        run(["lvcreate", "-q", "-y", "-Zn", "-L", "100M", "-T", "vg/unclean"], LVM_LIMIT)
        cls.companion = Companion(built_companion(), "", cls.scratch / "repository")
        cls.work = pathlib.Path("/tmp/work")
        cls.work.mkdir()

    def restore(self, *words, code=0, **options):
        command = [self.companion.program, "restore", "-r", self.companion.repository, "vg-test", "--json", *words]
        done = run(command, 300, check=False, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if done.stdout else {}

    def volumes(self):
        return set(run(["lvs", "--noheadings", "-o", "lv_name", "vg"], LVM_LIMIT).stdout.split()) - {"pool", "unclean"}

    def same(self, volume, target):
        """All of it: the disk, and nothing but zeros behind it."""
        content = pathlib.Path("/dev/vg", volume).read_bytes()
        disk = (self.scratch / f"{target}.raw").read_bytes()
        self.assertEqual(len(disk), SIZES[target])
        self.assertTrue(content[: len(disk)] == disk, f"{volume} is not {target}")
        self.assertLess(len(content) - len(disk), 4 * MIB)
        self.assertEqual(content[len(disk):].strip(b"\0"), b"")

    def used(self, volume):
        percent = float(run(["lvs", "--noheadings", "-o", "data_percent", f"vg/{volume}"], LVM_LIMIT).stdout)
        return percent * SIZES["vda" if "vda" in volume else "vdb"] / 100

    def opened(self, pid):
        """The disks whose volumes that process has open."""
        volumes = {target: pathlib.Path(f"/dev/vg/vg-test-{target}") for target in SIZES}
        nodes = {volume.stat().st_rdev: target for target, volume in volumes.items() if volume.exists()}
        found = set()
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(nodes.get(fd.stat().st_rdev))
        return found - {None}

    def remove(self, *names):
        for name in names:
            run(["lvremove", "-q", "-y", f"vg/{name}"], LVM_LIMIT)
        self.assertEqual(self.volumes(), set())

    def test_1_thick(self):
        made = self.restore("--to-volume-group", "vg", "--to", self.work / "thick")
        self.assertEqual([disk["to"] for disk in made["disks"]], ["/dev/vg/vg-test-vda", "/dev/vg/vg-test-vdb"])
        for target in SIZES:
            self.same(f"vg-test-{target}", target)
        xml = (self.work / "thick/vg-test.xml").read_text(encoding="utf-8")
        for target in SIZES:
            self.assertRegex(xml, re.compile(rf'<disk type="block".*?<source dev="/dev/vg/vg-test-{target}" />', re.S))
        self.assertEqual(run(["lvs", "--noheadings", "-o", "lv_tags", "vg"], LVM_LIMIT).stdout.split(), [])
        again = self.restore("--to-volume-group", "vg", "--to", self.work / "thick", "--overwrite", code=2)
        self.assertIn("already", again["error"]["message"])
        for target in SIZES:
            self.same(f"vg-test-{target}", target)
        self.remove("vg-test-vda", "vg-test-vdb")

    def test_2_thin_is_sparse(self):
        self.restore("--to-volume-group", "vg", "--thin-pool", "pool", "--to", self.work / "thin", "--name", "web2")
        for target in SIZES:
            self.same(f"web2-{target}", target)
            self.assertLess(self.used(f"web2-{target}"), 7 * MIB)
        self.remove("web2-vda", "web2-vdb")

    def test_2_thin_blocks_that_are_not_zeroed(self):
        # First others' data, which a block that is given to somebody else still has.
        run(["lvcreate", "-q", "-y", "-V", "48M", "-T", "vg/unclean", "-n", "first"], LVM_LIMIT)
        pathlib.Path("/dev/vg/first").write_bytes(b"secret.." * (6 * MIB))
        self.remove("first")
        self.restore("--to-volume-group", "vg", "--thin-pool", "unclean", "--to", self.work / "unclean")
        for target in SIZES:
            self.same(f"vg-test-{target}", target)
        self.remove("vg-test-vda", "vg-test-vdb")

    def test_3_one_disk(self):
        made = self.restore("--disk", "vdb", "--to-volume-group", "vg", "--thin-pool", "pool", "--name", "one")
        self.assertEqual(made["to"], "/dev/vg/one-vdb")
        self.same("one-vdb", "vdb")
        # One that is there is a block device like any other.
        self.restore("--disk", "vdb", "--to", "/dev/vg/one-vdb", code=2)
        pathlib.Path("/dev/vg/one-vdb").write_bytes(b"old....." * (20 * MIB // 8))
        self.restore("--disk", "vdb", "--to", "/dev/vg/one-vdb", "--overwrite", "--format", "raw")
        self.same("one-vdb", "vdb")
        self.remove("one-vdb")

    def test_4_nothing_is_left_of_what_does_not_work(self):
        said = {
            ("--to-volume-group", "nobody"): "no volume group nobody",
            ("--to-volume-group", "vg", "--thin-pool", "nobody"): "no thin pool nobody",
            ("--to-volume-group", "-v"): "no volume group's name",
            ("--to-volume-group", "vg", "--name", "with space"): "cannot be the name",
        }
        for words, what in said.items():
            done = self.restore(*words, "--to", self.work / "failed", code=2)
            self.assertIn(what, done["error"]["message"])
        run(["lvcreate", "-q", "-y", "-l", "100%FREE", "-n", "all", "vg"], LVM_LIMIT)
        run(["lvreduce", "-q", "-y", "-f", "-L", "-50M", "vg/all"], LVM_LIMIT)
        # Room for the first one only.
        done = self.restore("--to-volume-group", "vg", "--to", self.work / "failed", code=8)
        self.assertIn("cannot make the volume vg-test-vdb", done["error"]["message"])
        self.remove("all")

    def test_5_interrupted(self):
        command = [self.companion.program, "restore", "-r", self.companion.repository, "vg-test", "--to-volume-group", "vg",
                   "--to", self.work / "interrupted", "--limit", "50K"]
        with subprocess.Popen(list(map(os.fspath, command)), stderr=subprocess.PIPE, text=True) as restoring:
            # At that rate it has them open for minutes, also where the guest gets little of the processor.
            wait_until(lambda: restoring.poll() is not None or self.opened(restoring.pid) == set(SIZES), LVM_LIMIT, "it writes", 0.2)
            restoring.send_signal(signal.SIGINT)
            _, said = restoring.communicate(timeout=LVM_LIMIT)
        self.assertEqual(restoring.returncode, 11, said)
        self.assertEqual(self.volumes(), set())
        self.assertEqual(list((self.work / "interrupted").iterdir()), [])


def make_initramfs(kernel, version, scratch, init):
    """busybox, and the modules with what they depend on, in loading order."""
    tree = scratch / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "root", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox"), tree / "bin/busybox")
    for applet in ("sh", "mount", "insmod", "mkdir", "chroot", "poweroff"):
        (tree / "bin" / applet).symlink_to("busybox")
    order = []
    for module in MODULES:
        for line in run(["modprobe", "-d", kernel, "-S", version, "--show-depends", module], 60).stdout.splitlines():
            if line.startswith("insmod ") and line.split()[1] not in order:
                order.append(line.split()[1])
    for path in order:
        shutil.copy2(path, tree / "modules")
    (tree / "modules/order").write_text("".join(pathlib.Path(path).name + "\n" for path in order), encoding="ascii")
    (tree / "init").write_text(init, encoding="ascii")
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = run(["cpio", "-o", "-H", "newc", "--quiet"], 60, cwd=tree, text=False, input=names.encode()).stdout
    (scratch / "initrd").write_bytes(archive)


def run_inside(scratch):
    """Boots the guest, whose script is this file; its console."""
    kernel = kernel_of_its_own()
    (modules,) = (kernel / "lib/modules").iterdir()
    environment = f"VOLUME_GROUPS_SCRATCH={scratch} STILLPOINT_BUILD={os.environ.get('STILLPOINT_BUILD', 'build')}"
    command = f"/usr/bin/env {environment} {sys.executable} -B {pathlib.Path(__file__).resolve()} --inside {' '.join(sys.argv[1:])}"
    make_initramfs(kernel, modules.name, scratch, INIT.format(command=command))
    with open(scratch / "pv.raw", "wb") as disk:
        disk.truncate(600 * MIB)
    socket = scratch / "virtiofs.sock"
    sharing = subprocess.Popen([VIRTIOFSD, f"--socket-path={socket}", "-o", "source=/", "-o", "sandbox=chroot", "-f"],
                               stdout=subprocess.DEVNULL, stderr=open(scratch / "virtiofsd.log", "wb"))
    try:
        while not socket.exists() and sharing.poll() is None:
            time.sleep(0.1)
        accelerator = "tcg,thread=multi"
        return run(["qemu-system-x86_64", "-M", "q35", "-accel", accelerator, "-cpu", "max", "-m", "2048", "-smp", "2",
                    "-object", "memory-backend-memfd,id=memory,size=2G,share=on", "-numa", "node,memdev=memory",
                    "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio",
                    "-kernel", kernel / f"boot/vmlinuz-{modules.name}", "-initrd", scratch / "initrd",
                    "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
                    "-chardev", f"socket,id=host,path={socket}", "-device", "vhost-user-fs-pci,chardev=host,tag=host",
                    "-drive", f"if=virtio,format=raw,cache=unsafe,discard=unmap,file={scratch}/pv.raw"],
                   1800, errors="replace").stdout
    finally:
        sharing.terminate()
        sharing.wait()


def main():
    if sys.argv[1:2] == ["--inside"]:
        done = unittest.main(argv=[sys.argv[0], *sys.argv[2:]], exit=False, verbosity=2).result
        print(PASSED if done.wasSuccessful() else "volume-groups: failed")
        return
    unwind_on_signals()
    skip_unless_possible()
    if not os.access(VIRTIOFSD, os.X_OK):
        raise Failure(f"{VIRTIOFSD}: not there")
    with scratch_directory() as scratch:
        for target, size in SIZES.items():
            make_image(scratch / f"{target}.raw", size)
        run(["qemu-img", "convert", "-O", "qcow2", scratch / "vdb.raw", scratch / "vdb.qcow2"], 60)
        with Libvirtd(scratch / "libvirtd") as libvirtd:
            (scratch / "domain.xml").write_text(DOMAIN.format(scratch), encoding="ascii")
            libvirtd.virsh("define", scratch / "domain.xml")
            companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
            companion.init()
            companion.backup("vg-test", "--no-trees")
        say("booting")
        console = run_inside(scratch)
        print(console)
        sys.exit(0 if PASSED in console else 1)


if __name__ == "__main__":
    main()
