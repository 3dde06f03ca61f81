# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Ceph cluster of one monitor and one OSD on loopback: real daemons, on a sparse file.

Not in memory: MemStore (16.2.15) sometimes kills its OSD while it trims snapshots, for its iterators are not safe from its writers.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

from .scratch import SKIPPED, Failure, free_port, run, say, wait_until

CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}/0]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {root}/keyring
run dir = {root}/run
crash dir = {root}/log
admin socket = {root}/run/$name.$pid.asok
osd snap trim sleep hdd = 0
log file = {root}/log/$name.log
log to stderr = false
err to stderr = true
mon allow pool size one = true
mon allow pool delete = true
mon data avail warn = 1
mon data avail crit = 1
mon max pg per osd = 2000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush update on start = false
paxos propose interval = 0.05
paxos min wait = 0.01
{more}
[mon.a]
mon data = {root}/mon
mon addr = 127.0.0.1:{port}
[osd]
osd data = {root}/osd
osd objectstore = bluestore
bluestore block create = true
bluestore block size = {size}
bluestore cache autotune = false
bluestore cache size = 268435456
osd memory target = 939524096
osd class load list = *
osd class default list = *
osd op num shards = 2
osd fast shutdown = false
osd heartbeat grace = 20
# A PG of one OSD whose lease ran out while the OSD was stopped may never serve again: nobody's answer ends that state.
osd pool default read lease ratio = 50
[client]
log file = {root}/log/client.log
admin socket =
"""
# What has no command of its own that is quick: run by the system's Python, whose packages the bindings are.
ASK = """\
import json, rados, sys
cluster = rados.Rados(conffile=sys.argv[1], name="client.admin")
cluster.connect(timeout=30)
for command in json.load(sys.stdin):
    result, out, words = cluster.mon_command(json.dumps(command), b"", timeout=30)
    if result:
        sys.exit("%s: %s" % (command["prefix"], words))
    print(out.decode() if out.strip() else "null")
"""


def skip_unless_installed():
    """Ends the test as skipped where Ceph's daemons are not installed, with the reason."""
    if not pathlib.Path("/usr/bin/ceph-osd").exists():
        say("skipped: no ceph-osd here (packaging/install-deps test)")
        sys.exit(SKIPPED)

# A disk of a domain that is an image of it.
DISK = """<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='none' discard='unmap'/>
  <source protocol='rbd' name='{image}'><config file='{conf}'/></source>
  <target dev='{target}' bus='virtio'/>
</disk>"""


class Ceph:
    """Running from the beginning of the `with` to its end. `conf` is its ceph.conf, for client.admin."""

    def __init__(self, directory, pools=("rbd",), size=8 << 30, more=""):
        self.root = pathlib.Path(directory)
        self.conf = self.root / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self.port = free_port()
        self._pools = pools
        self._settings = {"size": size, "more": more}
        self._daemons = {}

    @property
    def environment(self):
        return {**os.environ, "CEPH_CONF": str(self.conf), "CEPH_ARGS": ""}

    def _tool(self, *argv):
        run(argv, 60, env=self.environment)

    def __enter__(self):
        for name in ("mon", "osd", "run", "log"):
            (self.root / name).mkdir(parents=True)
        text = CONF.format(root=self.root, fsid=self.fsid, port=self.port, **self._settings)
        self.conf.write_text(text, encoding="utf-8")
        keyring = self.root / "keyring"
        everything = [w for part in ("mon", "osd", "mgr") for w in ("--cap", part, "allow *")]
        self._tool("ceph-authtool", "-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._tool("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
        self._tool(
            "ceph-authtool", keyring, "--gen-key", "-n", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"
        )
        monmap = self.root / "monmap"
        self._tool(
            "monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", f"[v2:127.0.0.1:{self.port}/0]", monmap
        )
        self._tool("ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        try:
            self.start("mon")
            osd_uuid = str(uuid.uuid4())
            self._tool("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", osd_uuid, "--monmap", monmap)
            self.ask({"prefix": "osd new", "uuid": osd_uuid}, {"prefix": "osd crush add", "id": 0, "weight": 1.0, "args": ["root=default"]})
            self.start("osd")
            self.wait_for_osd()
            for pool in self._pools:
                self.create_pool(pool)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name, daemon in list(self._daemons.items())[::-1]:
            if daemon.poll() is not None:
                say(f"ceph-{name} had died, {daemon.returncode}: {(self.root / f'log/{name}.out').read_text(errors='replace')[-4000:]}")
            self.stop(name, signal.SIGKILL)

    def start(self, name):
        """Starts "mon" or "osd"."""
        identity = {"mon": "a", "osd": "0"}[name]
        with (self.root / f"log/{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [f"ceph-{name}", "-c", self.conf, "-i", identity, "-f"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )

    def stop(self, name, how=signal.SIGTERM):
        """Ends "mon" or "osd"."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(how)
        daemon.wait(60)

    def signal(self, name, how):
        """Sends "mon" or "osd" a signal: SIGSTOP, SIGCONT."""
        self._daemons[name].send_signal(how)

    def wait_until_idle(self):
        """Until no daemon has anything left to do: OSDs delete and trim what was removed later, in the background."""
        wait_until(lambda: self._busy(0.5) < 0.02, 120, "a Ceph cluster that is at rest", interval=0.1)

    def _busy(self, seconds):
        """Seconds of processors that the daemons take in so many."""
        def used():
            stats = (pathlib.Path(f"/proc/{daemon.pid}/stat").read_text(encoding="utf-8") for daemon in self._daemons.values())
            return sum(sum(map(int, stat.rsplit(")", 1)[1].split()[11:13])) for stat in stats) / os.sysconf("SC_CLK_TCK")
        begin = used()
        time.sleep(seconds)
        return used() - begin

    def wait_for_osd(self, up=True):
        """Until the monitor knows that the OSD is up, or down."""
        wait_until(
            lambda: bool(self.ask({"prefix": "osd stat", "format": "json"})[0]["num_up_osds"]) == up, 60,
            f"an OSD that is {'up' if up else 'down'}", interval=0.05,
        )

    def ask(self, *commands):
        """Commands to the monitor; what each answered, JSON where it was asked for."""
        done = run(["/usr/bin/python3", "-c", ASK, self.conf], 60, input=json.dumps(commands), env=self.environment)
        return [json.loads(line) if line[:1] in "{[n" else line for line in done.stdout.splitlines() if line]

    def create_pool(self, name):
        """A pool for RBD images."""
        self.ask({"prefix": "osd pool create", "pool": name, "pg_num": 8})
        self.rbd("pool", "init", name)

    def add_user(self, name, mon="profile rbd", osd="profile rbd"):
        """A user of fewer rights than client.admin, in the cluster's keyring; returns the key."""
        entry = self.ask({"prefix": "auth get-or-create", "entity": f"client.{name}", "caps": ["mon", mon, "osd", osd], "format": "json"})[0][0]
        with (self.root / "keyring").open("a", encoding="ascii") as keyring:
            keyring.write(f"\n[client.{name}]\n\tkey = {entry['key']}\n")
        return entry["key"]

    def take_disk(self, libvirtd, guest, target):
        """Moves a disk of a running guest into a new image of the pool rbd."""
        size = libvirtd.virsh("domblkinfo", guest.name, target).stdout.split("Capacity:")[1].split()[0]
        image = f"rbd/{guest.name}-{target}"
        self.rbd("create", "--size", f"{size}B", image)
        xml = self.root / f"{target}.xml"
        xml.write_text(DISK.format(image=image, conf=self.conf, target=target), encoding="ascii")
        copy = ("blockcopy", guest.name, target, "--xml", xml, "--reuse-external", "--transient-job", "--wait", "--pivot")
        libvirtd.virsh(*copy, timeout=300)

    def rbd(self, *arguments, timeout=120, **options):
        """The rbd command; returns its output."""
        return run(["rbd", "-c", self.conf, *arguments], timeout, env=self.environment, **options).stdout

    def rados(self, *arguments, timeout=120, **options):
        """The rados command; returns its output."""
        return run(["rados", "-c", self.conf, *arguments], timeout, env=self.environment, **options).stdout


__all__ = ["Ceph", "DISK", "Failure", "skip_unless_installed"]
