# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disk of a running domain, of which QEMU tells what has changed.

The domain has no system in it: QEMU's monitor writes to the disk, so that nobody's load disturbs the clock.
"""

import collections
import os
import random
import shutil

from support.libvirtd import Libvirtd, skip_unless_possible
from support.scratch import Failure, run, say

from . import image
from .measure import cost
from .tools import NAME, Stillpoint

DOMAIN = """\
<domain type='qemu'>
  <name>bench</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
GIB = 1 << 30
DEVICE = "/machine/peripheral/virtio-disk0/virtio-backend"


class Guest:
    """A domain with one disk that holds a copy of an image."""

    def __init__(self, libvirtd, directory, source, size):
        self.libvirtd = libvirtd
        self.disk = directory / "guest.qcow2"
        self.pattern = directory / "pattern"
        self.size = source.stat().st_size  # of what is written to: a larger disk holds no more
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, self.disk], 600)
        run(["qemu-img", "resize", "-q", self.disk, str(size)], 60)
        definition = directory / "domain.xml"
        definition.write_text(DOMAIN.format(disk=self.disk), encoding="utf-8")
        libvirtd.virsh("create", definition)

    def write(self, scattered, seed):
        noise = random.Random(seed)
        for offset in image.offsets(self.size, scattered):
            self.pattern.write_bytes(noise.randbytes(image.BLOCK))
            command = f'qemu-io -d {DEVICE} "write -q -s {self.pattern} {offset} {image.BLOCK}"'
            said = self.libvirtd.virsh("qemu-monitor-command", "bench", "--hmp", command).stdout
            if said.strip():
                raise Failure(f"{command}: {said}")

    def shut_off(self):
        self.libvirtd.virsh("destroy", "bench")

    def equals(self, other, format_):
        run(["qemu-img", "compare", "-f", "qcow2", "-F", format_, self.disk, other], 600)


class Ours:
    name = Stillpoint.name

    def __init__(self, directory, libvirtd):
        self.directory = directory
        self.store = directory / "store"
        self.command = [Stillpoint.program, "--no-progress", "-r", self.store, "-c", libvirtd.uri]
        run([*self.command, "init"], 60)

    def save(self, _):
        return cost([*self.command, "backup", "--no-trees", "bench"], self.directory)

    def restore(self):
        target = self.directory / "restored"
        how = ["restore", "bench@latest", "--disk", "vda", "--to", target, "--format", "qcow2"]
        return cost([*self.command, *how], self.directory), target, "qcow2"


class VirtNbdBackup:
    name = "virtnbdbackup"
    options = ()

    def __init__(self, directory, libvirtd):
        self.directory = directory
        self.store = directory / "store"
        self.libvirtd = libvirtd

    def save(self, level):
        how = ["virtnbdbackup", "-d", "bench", "-l", level, "-o", self.store, *self.options]
        return cost(self.libvirtd.inside(*how), self.directory)

    def restore(self):
        target = self.directory / "restored"
        target.mkdir()
        result = cost(self.libvirtd.inside("virtnbdrestore", "-i", self.store, "-o", target), self.directory)
        return result, target / "guest.qcow2", "qcow2"


class VirtNbdBackupCompressed(VirtNbdBackup):
    name = "virtnbdbackup, lz4"
    options = ("-z",)


def backups(kind, libvirtd, scratch, source, size, label, costs):
    """One guest, backed up by one tool: in full, after writes, and after none; restored and compared."""
    directory = scratch / "live"
    directory.mkdir()
    guest = Guest(libvirtd, directory, source, size)
    try:
        tool = kind(directory, libvirtd)
        before = 0
        for number, operation in enumerate(("full", "scattered writes", "clustered writes", "nothing changed")):
            if number in (1, 2):
                guest.write(number == 1, number)
            one = tool.save("inc" if number else "full")
            stored = image.allocated(tool.store)
            one.added, before = stored - before, stored
            costs[f"{label}: {operation}"][kind.name].append(one)
    finally:
        guest.shut_off()
    one, restored, format_ = tool.restore()
    guest.equals(restored, format_)
    costs[f"{label}: restore to qcow2"][kind.name].append(one)
    shutil.rmtree(directory)


def measure(scratch, arguments):
    """Costs by operation and tool."""
    skip_unless_possible()
    kinds = [kind for kind in (Ours, VirtNbdBackup, VirtNbdBackupCompressed)
             if not arguments.only or any(part in kind.name for part in arguments.only)]
    costs = collections.defaultdict(lambda: collections.defaultdict(list))
    source = scratch / NAME
    image.make(source, arguments.size, scratch)
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    with Libvirtd(scratch / "libvirt") as libvirtd:
        for number in range(arguments.rounds):
            for kind in kinds:
                say(f"guest, round {number + 1}: {kind.name}")
                backups(kind, libvirtd, scratch, source, arguments.size, "Guest", costs)
    return costs


def grow(scratch, arguments):
    """Costs of the same changes in larger and larger disks, by operation and size."""
    skip_unless_possible()
    costs = collections.defaultdict(lambda: collections.defaultdict(list))
    source = scratch / NAME
    image.make(source, 2 * GIB, scratch)
    with Libvirtd(scratch / "libvirt-of-growth") as libvirtd:
        for _ in range(arguments.rounds):
            for gib in (2, 20, 200):
                say(f"guest of {gib} GiB")
                sized = type("Sized", (Ours,), {"name": f"{gib} GiB"})
                backups(sized, libvirtd, scratch, source, gib * GIB, "Growth", costs)
    return costs
