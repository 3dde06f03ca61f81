# SPDX-License-Identifier: LGPL-2.1-or-later
"""RBD images beside the rbd command and the way of cinder-backup, in one run on one machine.

python3 tests/bench/rbd [--rounds N] [--size 2G] [--json FILE] [PART]...

read     all of an image: to the ids of its chunks, and dropped; `rbd export - | cat >/dev/null`
backup   a domain's image is kept in full, after 64 MiB in blocks of 64 KiB all over its 1 GiB of files, and after
         nothing: `backup` into a directory, and without compression; rbd export to a file; rbd export-diff into the copy on the same cluster; the
         same into a copy on another one, as cinder-backup does

Clusters of one monitor and one OSD on loopback, so that programs share the processors with the OSD: its seconds are in
none of the columns but wall. As root, after packaging/install-deps test. N is 3. The tables are Markdown on standard
output (docs/performance.md has them); STILLPOINT_BUILD names the build to measure.
"""

import argparse
import collections
import contextlib
import filecmp
import json
import os
import pathlib
import random
import shutil
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2]), str(pathlib.Path(__file__).resolve().parents[1])]
from engine import image
from engine.measure import cost, machine, save, table
from support.ceph import Ceph
from support.companion import built_companion
from support.libvirtd import Libvirtd, skip_unless_possible
from support.scratch import SOURCE, Failure, run, say, scratch_directory, unwind_on_signals

OURS = "stillpoint"
CHANGED = 1024  # blocks of 64 KiB
NAME = "bench"
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <auth username='admin'><secret type='ceph' uuid='{secret}'/></auth>
      <source protocol='rbd' name='rbd/disk'><host name='127.0.0.1' port='{port}'/></source>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""
SECRET = """\
<secret ephemeral='no' private='no'>
  <uuid>{uuid}</uuid><usage type='ceph'><name>client.admin of the bench</name></usage>
</secret>
"""
SECRET_UUID = "5711901c-0000-4000-8000-00000000ceff"
# Run by the system's Python, whose packages the bindings are.
WRITE = """\
import json, random, rados, rbd, sys
offsets, seed = json.load(sys.stdin)
noise = random.Random(seed)
with rados.Rados(conffile=sys.argv[1], name="client.admin") as cluster, cluster.open_ioctx("rbd") as pool, rbd.Image(pool, "disk") as image:
    for offset in offsets:
        image.write(noise.randbytes(65536), offset)
    image.flush()
"""


def build_directory():
    return SOURCE / os.environ.get("STILLPOINT_BUILD", "build")


class Bench:
    def __init__(self, ceph, scratch, source):
        self.ceph = ceph
        self.clusters = [ceph]
        self.scratch = scratch
        self.source = source
        self.costs = collections.defaultdict(lambda: collections.defaultdict(list))
        self.number = 0

    def cost(self, argv, **options):
        for cluster in self.clusters:
            cluster.wait_until_idle()
        return cost(argv, self.scratch, env=self.ceph.environment, **options)

    def shell(self, command):
        return self.cost(["bash", "-o", "pipefail", "-ec", command])

    def show(self, *titles):
        for title in titles:
            print(table(title, self.costs[title], OURS), flush=True)

    def write(self, seed):
        """Changes the image as a guest would."""
        held = min(self.source.stat().st_size // 2, 1 << 30) // image.BLOCK
        offsets = [n * image.BLOCK for n in sorted(random.Random(seed).sample(range(held), min(CHANGED, held // 2)))]
        run(["/usr/bin/python3", "-c", WRITE, self.ceph.conf], 120, input=json.dumps([offsets, seed]), env=self.ceph.environment)


def read(bench, arguments):
    run(["ninja", "-C", build_directory(), "tests/bench/bench-rbd-read"], 900)
    bench.ceph.rbd("snap", "create", "--no-progress", "rbd/disk@read")
    snapshot = str(json.loads(bench.ceph.rbd("snap", "ls", "--format", "json", "rbd/disk"))[-1]["id"])
    of = bench.costs["Reading all of it"]
    for number in range(arguments.rounds):
        say(f"read: round {number + 1}")
        tools = {
            OURS: lambda: bench.cost([build_directory() / "tests/bench/bench-rbd-read", bench.ceph.conf, "rbd/disk", snapshot]),
            "rbd export": lambda: bench.shell("rbd export --no-progress rbd/disk@read - | cat >/dev/null"),
        }
        for tool in list(tools)[::1 if number % 2 else -1]:  # nobody is always first
            of[tool].append(tools[tool]())
    bench.ceph.rbd("snap", "rm", "--no-progress", "rbd/disk@read")
    bench.show("Reading all of it")


class Keeper:
    """One way to keep the image; every method returns a Cost."""

    def __init__(self, bench):
        self.bench = bench


class Stillpoint(Keeper):
    name = OURS

    def __init__(self, bench, libvirtd, *options):
        super().__init__(bench)
        self.repository = bench.scratch / f"repository{''.join(options)}"
        self.command = [built_companion(), "--no-progress", "--repository", self.repository, "--connect", libvirtd.uri]
        self.options = options
        self.others = self.snapshots()
        run([*self.command, "init"], 60)

    def snapshots(self):
        return [one["name"] for one in json.loads(self.bench.ceph.rbd("snap", "ls", "--format", "json", "rbd/disk"))]

    def full(self):
        return self.keep()

    def keep(self):
        before = image.allocated(self.repository)
        result = self.bench.cost([*self.command, "backup", "--no-trees", *self.options, NAME])
        result.added = image.allocated(self.repository) - before
        return result

    def check(self):
        target = self.bench.scratch / "restored"
        run([*self.command, "restore", f"{NAME}@latest", "--disk", "vda", "--to", target, "--format", "raw"], 600)
        compare(self.bench, target)

    def end(self):
        shutil.rmtree(self.repository)
        for snapshot in self.snapshots():
            if snapshot.startswith("stillpoint.") and snapshot not in self.others:
                self.bench.ceph.rbd("snap", "rm", "--no-progress", f"rbd/disk@{snapshot}")


class Uncompressed(Keeper):
    """As rbd export is. Gone at once: a second repository's snapshots keep the other from using object maps."""

    name = "stillpoint --compression none"

    def __init__(self, bench, libvirtd):
        super().__init__(bench)
        self.libvirtd = libvirtd

    def full(self):
        keeper = Stillpoint(self.bench, self.libvirtd, "--compression", "none")
        result = keeper.full()
        keeper.check()
        keeper.end()
        return result


class Export(Keeper):
    name = "rbd export to a file"

    def full(self):
        target = self.bench.scratch / "exported"
        result = self.bench.shell(f"rbd snap create --no-progress rbd/disk@export; rbd export --no-progress rbd/disk@export {target}")
        result.added = target.stat().st_blocks * 512
        self.bench.ceph.rbd("snap", "rm", "--no-progress", "rbd/disk@export")
        target.unlink()
        return result


class Diff(Keeper):
    """A copy that follows by export-diff, on the same cluster or another."""

    def __init__(self, bench, name, label, to=None):
        super().__init__(bench)
        self.name = name
        self.to = to or bench.ceph
        self.label = label
        self.number = 0

    def pipe(self, earlier=()):
        """The last snapshot but one is not needed any more, and its removal nobody waits for."""
        self.number += 1
        copy = f"-c {self.to.conf}"
        new = f"{self.label}{self.number}"
        return self.bench.shell(
            f"rbd snap create --no-progress rbd/disk@{new}\n"
            f"rbd export-diff --no-progress {' '.join(earlier)} rbd/disk@{new} - | rbd {copy} import-diff --no-progress - rbd/{self.label}"
        )

    def full(self):
        size = self.bench.source.stat().st_size >> 20
        self.to.rbd("create", "--size", f"{size}M", f"rbd/{self.label}")
        return self.pipe()

    def keep(self):
        result = self.pipe(["--from-snap", f"{self.label}{self.number}"])
        self.bench.ceph.rbd("snap", "rm", "--no-progress", f"rbd/disk@{self.label}{self.number - 1}")
        return result

    def check(self):
        target = self.bench.scratch / "copied"
        self.to.rbd("export", "--no-progress", f"rbd/{self.label}", target)
        compare(self.bench, target)

    def end(self):
        self.bench.ceph.rbd("snap", "rm", "--no-progress", f"rbd/disk@{self.label}{self.number}")
        self.to.rbd("snap", "purge", "--no-progress", f"rbd/{self.label}")
        self.to.rbd("rm", "--no-progress", f"rbd/{self.label}")


def compare(bench, target):
    wanted = bench.scratch / "wanted"
    bench.ceph.rbd("export", "--no-progress", "rbd/disk", wanted)
    if not filecmp.cmp(target, wanted, shallow=False):
        raise Failure(f"{target} is not the image")
    wanted.unlink()
    target.unlink()


@contextlib.contextmanager
def domain(bench):
    """A domain, shut off, whose disk is the image."""
    with Libvirtd(bench.scratch / "libvirtd") as libvirtd:
        key = bench.ceph.ask({"prefix": "auth get-key", "entity": "client.admin"})[0]
        for name, text in (("secret", SECRET.format(uuid=SECRET_UUID)),
                           ("domain", DOMAIN.format(name=NAME, secret=SECRET_UUID, port=bench.ceph.port))):
            (bench.scratch / f"{name}.xml").write_text(text, encoding="utf-8")
        libvirtd.virsh("secret-define", bench.scratch / "secret.xml")
        libvirtd.virsh("secret-set-value", "--secret", SECRET_UUID, "--base64", key)
        libvirtd.virsh("define", bench.scratch / "domain.xml")
        yield libvirtd


def backup(bench, arguments):
    steps = ("Full", "After 64 MiB of scattered writes", "Nothing changed")
    with domain(bench) as libvirtd, Ceph(bench.scratch / "other", size=arguments.size * 3) as other:
        bench.clusters.append(other)
        for number in range(arguments.rounds):
            keepers = [Stillpoint(bench, libvirtd), Uncompressed(bench, libvirtd), Export(bench),
                       Diff(bench, "export-diff, import-diff", "copy"), Diff(bench, "the same, to another cluster (cinder-backup)", "cinder", other)]
            for step, title in enumerate(steps):
                if step == 1:
                    bench.write(number + 1)
                for keeper in keepers[number % len(keepers):] + keepers[:number % len(keepers)]:  # nobody is always first
                    if step and not hasattr(keeper, "keep"):
                        continue
                    say(f"round {number + 1}: {title}: {keeper.name}")
                    bench.costs[title][keeper.name].append(keeper.full() if step == 0 else keeper.keep())
            bench.costs["Nothing changed"]["rbd snap create alone"].append(bench.cost(["rbd", "snap", "create", "--no-progress", "rbd/disk@alone"]))
            bench.ceph.rbd("snap", "rm", "--no-progress", "rbd/disk@alone")
            for keeper in keepers:
                for last in ("check", "end"):
                    getattr(keeper, last, lambda: None)()
    bench.show(*steps)


PARTS = {"read": read, "backup": backup}


def size_of(text):
    units = {"M": 1 << 20, "G": 1 << 30}
    if text[-1:] not in units or not text[:-1].isdigit():
        raise argparse.ArgumentTypeError(f"{text}: a size is a number and M or G, as in 2G")
    return int(text[:-1]) * units[text[-1]]


def part_of(name):
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(PARTS)}")
    return PARTS[name]


def main():
    unwind_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default=2 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("parts", nargs="*", type=part_of, metavar="PART")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    skip_unless_possible()
    print(f"{machine()}; image of {arguments.size >> 20} MiB; median of {arguments.rounds}\n", flush=True)
    with scratch_directory() as scratch, Ceph(scratch / "ceph", size=arguments.size * 4) as ceph:
        say("making the image")
        bench = Bench(ceph, scratch, scratch / "disk.raw")
        image.make(bench.source, arguments.size, scratch)
        ceph.rbd("import", "--no-progress", bench.source, "rbd/disk")
        for part in arguments.parts or PARTS.values():
            part(bench, arguments)
        if arguments.json:
            save(bench.costs, arguments.json)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"rbd: {failure}")
