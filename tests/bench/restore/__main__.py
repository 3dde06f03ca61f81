# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long until a backup is of use: the first byte of a disk, and a guest that answers; in one run on one machine.

python3 tests/bench/restore [--rounds N] [--size 2G] [--only first-byte|guest] [--json FILE]

first-byte  an image as it is in tests/bench/engine: until 512 bytes in the middle of its file system were read, by
            `serve`, and where all of it is restored first
guest       the tests' guest, with PostgreSQL and MariaDB on three disks: until qemu-ga answers in a copy of it, by
            `boot`, and where its disks are restored first. A round boots it five times: one, whatever --rounds says

The others' way: virtnbdrestore, then start; qemu-img convert from images that qemu-img has kept, then start. An overlay
on such an image is as fast as can be: it has no history, no deduplication and no checksums, and must stay where it is.

As root, after packaging/install-deps bench. N is 3. Backups are in the page cache for all. The tables are Markdown on
standard output (docs/performance.md has them); STILLPOINT_BUILD names the build to measure.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2]), str(pathlib.Path(__file__).resolve().parents[1])]
from engine import image as disk_image
from engine.live import Guest as DiskGuest
from engine.measure import machine, warm
from support.companion import Companion, built_companion
from support.guest import Guest, fresh_disks
from support.image import guest_image
from support.libvirtd import Libvirtd, domain_type, skip_unless_possible
from support.scratch import Failure, run, say, scratch_directory, unwind_on_signals, wait_until

OURS, OURS_RESTORED = "stillpoint serve", "stillpoint restore"
BOOT, RESTORED = "stillpoint boot", "stillpoint restore --define, start"
OVERLAY = "qcow2 overlay on the backup"
# Where ext4 keeps its magic number, in the first block group and in the second.
MAGIC = "read -q -P 0x53 {} 1"
PLACES = (1080, 32768 * 4096 + 0x38)


def warm_all(directory):
    for path in pathlib.Path(directory).rglob("*"):
        if path.is_file():
            warm(path)


def read_first(target, format_):
    """512 bytes are read; that they are right is looked at."""
    words = [word for place in PLACES for word in ("-c", MAGIC.format(place))]
    said = run(["qemu-io", "-r", "-f", format_, *words, target], 60)
    if "verification failed" in said.stdout + said.stderr:
        raise Failure(f"{target} is not the disk: {said.stdout}")


def wait_unused(image):
    """virtnbdrestore ends before its servers do, which have the image locked."""
    wait_until(lambda: run(["qemu-img", "info", image], 30, check=False).returncode == 0, 60, f"{image} is free", 0.02)


class FirstByte:
    """Backups of one image, and each way to the first byte of it."""

    def __init__(self, scratch, size, libvirtd):
        self.scratch = scratch
        self.libvirtd = libvirtd
        self.kept = scratch / "kept"  # by qemu-img
        self.store = scratch / "virtnbd"
        self.target = scratch / "target"
        source = scratch / "disk.raw"
        disk_image.make(source, size, scratch)
        self.companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
        self.companion.init()
        guest_directory = scratch / "guest"
        guest_directory.mkdir()
        guest = DiskGuest(libvirtd, guest_directory, source, size)
        try:
            # It takes nobody else's checkpoints, so it comes first, and leaves none.
            run(libvirtd.inside("virtnbdbackup", "-d", "bench", "-l", "copy", "-o", self.store), 600)
            self.companion.backup("bench", "--no-trees")
        finally:
            guest.shut_off()
        self.kept.mkdir()
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, self.kept / "disk.qcow2"], 600)
        for path in (source, guest.disk):
            path.unlink()

    def serve(self):
        socket = self.scratch / "serve.sock"
        command = [self.companion.program, "serve", "-r", self.companion.repository, "bench", "--socket", socket]
        with subprocess.Popen(list(map(os.fspath, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
            try:
                wait_until(socket.exists, 60, "serve listens", 0.005)
                read_first(f"nbd+unix:///?socket={socket}", "raw")
                yield
            finally:
                serving.terminate()

    def restore(self):
        self.companion.run("restore", "bench", "--disk", "vda", "--to", self.target / "disk.qcow2", "--format", "qcow2")
        read_first(self.target / "disk.qcow2", "qcow2")
        yield

    def virtnbdrestore(self):
        run(self.libvirtd.inside("virtnbdrestore", "-n", "-i", self.store, "-o", self.target), 600)
        wait_unused(self.target / "guest.qcow2")
        read_first(self.target / "guest.qcow2", "qcow2")
        yield

    def convert(self):
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", self.kept / "disk.qcow2", self.target / "disk.qcow2"], 600)
        read_first(self.target / "disk.qcow2", "qcow2")
        yield

    def overlay(self):
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.kept / "disk.qcow2",
             self.target / "disk.qcow2"], 60)
        read_first(self.target / "disk.qcow2", "qcow2")
        yield

    def measure(self, rounds):
        ways = {OURS: self.serve, OURS_RESTORED: self.restore, "virtnbdrestore": self.virtnbdrestore,
                "qemu-img convert": self.convert, OVERLAY: self.overlay}
        took = collections.defaultdict(list)
        for number in range(rounds):
            for name, way in ways.items():
                say(f"first byte, round {number + 1}: {name}")
                for directory in (self.companion.repository, self.store, self.kept):
                    warm_all(directory)
                self.target.mkdir()
                run(["sync", "-f", self.scratch], 600)
                begun = time.monotonic()
                for _ in way():
                    took[name].append(time.monotonic() - begun)
                shutil.rmtree(self.target)
        return took


class BootedGuest:
    """Backups of the tests' guest, and each way to a copy of it that answers."""

    def __init__(self, scratch, libvirtd):
        self.scratch = scratch
        self.libvirtd = libvirtd
        self.image = guest_image()  # qemu-ga is in it, and our agent has no part in this
        self.kind = domain_type(self.image)
        self.kept = scratch / "kept-guest"
        self.store = scratch / "virtnbd-guest"
        self.kept.mkdir()
        self.companion = Companion(built_companion(), libvirtd.uri, scratch / "repository-guest")
        self.companion.init()
        disks = []
        for target, format_, path in fresh_disks(self.image, scratch / "fresh"):
            # Images of their own: virtnbdbackup takes no raw disk incrementally, and each copies a chain in its own way.
            flat = scratch / f"{target}.qcow2"
            run(["qemu-img", "convert", "-f", format_, "-O", "qcow2", path, flat], 600)
            disks.append((target, "qcow2", flat))
        shutil.rmtree(scratch / "fresh")
        self.disks = disks
        with self.guest("web1", disks) as guest:
            guest.wait_agent(400)
            guest.wait_databases(400)
            run(libvirtd.inside("virtnbdbackup", "-d", "web1", "-l", "copy", "-o", self.store), 900)
            self.companion.backup("web1", "--no-trees")
            guest.sh("systemctl stop postgresql mariadb; sync")
            libvirtd.virsh("destroy", "web1")
            for target, _, path in disks:
                run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", path, self.kept / f"{target}.qcow2"], 600)
                path.unlink()

    def guest(self, name, disks):
        return Guest(self.libvirtd, self.image, name, disks, self.kind, self.scratch / name)

    def start(self, name, disks):
        """Defined and started as its operator would do it; until it answers."""
        guest = self.guest(name, disks)
        definition = guest.directory / "domain.xml"
        definition.write_text(guest.xml, encoding="utf-8")
        self.libvirtd.virsh("define", definition)
        return self.answers(guest, True)

    def answers(self, guest, start):
        if start:
            self.libvirtd.virsh("start", guest.name, timeout=120)
        wait_until(lambda: guest.qga("guest-ping", 5, check=False) is not None, 600, f"{guest.name} answers", 0.1)
        return guest.name

    def restored(self, directory):
        return [(target, "qcow2", directory / f"{target}.qcow2") for target, _, _ in self.disks]

    def boot(self, directory):
        made = self.companion.json("boot", "web1", "--name", "booted", "--directory", directory / "boot")
        return self.answers(self.guest(made["domain"], []), False)

    def restore(self, directory):
        self.companion.run("restore", "web1", "--to", directory, "--define", "--name", "restored")
        return self.answers(self.guest("restored", []), True)

    def virtnbdrestore(self, directory):
        run(self.libvirtd.inside("virtnbdrestore", "-n", "-i", self.store, "-o", directory), 900)
        for _, _, path in self.restored(directory):
            wait_unused(path)
        return self.start("virtnbd", self.restored(directory))

    def convert(self, directory):
        for target, _, path in self.restored(directory):
            run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", self.kept / f"{target}.qcow2", path], 600)
        return self.start("converted", self.restored(directory))

    def overlay(self, directory):
        for target, _, path in self.restored(directory):
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.kept / f"{target}.qcow2", path], 60)
        return self.start("overlaid", self.restored(directory))

    def measure(self):
        ways = {BOOT: self.boot, RESTORED: self.restore, "virtnbdrestore, start": self.virtnbdrestore,
                "qemu-img convert, start": self.convert, OVERLAY + ", start": self.overlay}
        took = {}
        for name, way in ways.items():
            say(f"guest: {name}")
            for directory in (self.companion.repository, self.store, self.kept):
                warm_all(directory)
            directory = self.scratch / "copy"
            directory.mkdir()
            run(["sync", "-f", self.scratch], 600)
            begun = time.monotonic()
            domain = way(directory)
            took[name] = [time.monotonic() - begun]
            if name == BOOT:
                self.companion.run("boot", "--remove", domain, "--directory", directory / "boot")
            else:
                self.libvirtd.virsh("destroy", domain)
                self.libvirtd.virsh("undefine", domain)
            shutil.rmtree(directory)
        return took


def table(title, took, ours):
    lines = [f"### {title}", "", f"| | s | x {ours} |", "|---|---:|---:|"]
    base = statistics.median(took[ours])
    for name, times in took.items():
        median = statistics.median(times)
        lines.append(f"| {name} | {median:.2f} | {median / base:.1f} |")
    return "\n".join(lines) + "\n"


def main():
    unwind_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="2G", type=lambda text: int(text[:-1]) << {"M": 20, "G": 30}[text[-1]])
    parser.add_argument("--only", choices=("first-byte", "guest"))
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    skip_unless_possible()
    missing = [name for name in ("virtnbdbackup", "virtnbdrestore", "qemu-img", "qemu-io") if not shutil.which(name)]
    if missing:
        raise Failure(f"not installed: {' '.join(missing)}; run packaging/install-deps bench")
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    results = {}
    with scratch_directory() as scratch, Libvirtd(scratch / "libvirt") as libvirtd:
        print(machine() + "\n", flush=True)
        if arguments.only != "guest":
            (scratch / "first-byte").mkdir()
            results["first byte"] = FirstByte(scratch / "first-byte", arguments.size, libvirtd).measure(arguments.rounds)
            shutil.rmtree(scratch / "first-byte")
            print(table(f"First byte of a disk of {arguments.size >> 20} MiB, median of {arguments.rounds}",
                        results["first byte"], OURS), flush=True)
        if arguments.only != "first-byte":
            (scratch / "guests").mkdir()
            guest = BootedGuest(scratch / "guests", libvirtd)
            results["guest"] = guest.measure()
            accelerated = "KVM" if guest.kind == "kvm" else "an emulated processor"
            print(table(f"A guest that answers ({accelerated}), one round", results["guest"], BOOT), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "seconds": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"restore: {failure}")
