# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can die or hang: how each is found, struck, and brought back as its init or its operator would."""

import contextlib
import os
import pathlib
import signal

from support.scratch import Failure, wait_until

KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


def host_pids(*words):
    """Processes of this machine with all these words in their command lines."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(entry.name))
    return found


class InGuest:
    """A program of the guest. systemd starts the agent, qemu-ga and MariaDB again; PostgreSQL is its operator's."""

    mends = {"postgresql": "systemctl restart postgresql@15-main", "mariadb": "systemctl start mariadb"}

    def __init__(self, name):
        self.name = name

    def strike(self, stage, number):
        """How many processes were struck; 0: it does not live now."""
        return stage.inside.ask("strike", self.name, int(number))

    def mend(self, stage, number):
        if number == STOP:
            self.strike(stage, CONT)
        elif self.name in self.mends:
            stage.inside.run(self.mends[self.name], 90)


class OnHost:
    """A process of this machine."""

    def __init__(self, name, pids):
        self.name = name
        self.pids = pids
        self.struck = []

    def strike(self, stage, number):
        self.struck = self.pids(stage)
        for pid in self.struck:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(self.struck)

    def mend(self, stage, number):
        for pid in self.struck if number == STOP else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, CONT)


class LibvirtDaemon(OnHost):
    def __init__(self):
        super().__init__("libvirtd", None)

    def strike(self, stage, number):
        stage.libvirtd.kill(number.name.removeprefix("SIG"))
        if number == KILL:
            stage.libvirtd.start()  # as its init does
        return 1

    def mend(self, stage, number):
        if number != STOP:
            return
        try:
            stage.libvirtd.kill("CONT")
        except Failure:
            stage.libvirtd.start()  # it did not survive: as its init does


class Emulator(OnHost):
    """QEMU: when it is killed the guest is started again."""

    def __init__(self):
        super().__init__("QEMU", lambda stage: host_pids("qemu-system", "guest=" + stage.guest.name, str(stage.scratch)))

    def mend(self, stage, number):
        super().mend(stage, number)
        if number == STOP:
            stage.inside.ask("disarm", limit=60)
        else:
            wait_until(lambda: "shut off" in stage.libvirtd.virsh("domstate", stage.guest.name).stdout, 30, "shut off", 0.5)
            stage.guest.start()
            stage.guest.wait_agent()
            stage.guest.wait_databases()
            stage.inside.connect()


class ClusterDaemon:
    """The Ceph cluster's only OSD, or only monitor. Killed, it is started again at once, as its init does."""

    def __init__(self, name, daemon):
        self.name = name
        self.daemon = daemon

    def strike(self, stage, number):
        if number == KILL:
            stage.ceph.stop(self.daemon, KILL)
            stage.ceph.start(self.daemon)
        else:
            stage.ceph.signal(self.daemon, number)
        return 1

    def mend(self, stage, number):
        if number == STOP:
            stage.ceph.signal(self.daemon, CONT)


# Without them the guest's disks take no writes.
BELOW_THE_GUEST = ("QEMU", "OSD")
# Those of a guest whose disks are RBD images.
IN_CEPH = ("OSD", "monitor")
PARTIES = {
    party.name: party
    for party in (
        InGuest("agent"),
        InGuest("hook"),
        InGuest("watchdog"),
        InGuest("qemu-ga"),
        InGuest("postgresql"),
        InGuest("mariadb"),
        OnHost("companion", lambda stage: [stage.backup.pid] if stage.backup else []),
        OnHost("thaw guard", lambda stage: host_pids("thaw-guard", stage.libvirtd.uri)),
        LibvirtDaemon(),
        Emulator(),
        ClusterDaemon("OSD", "osd"),
        ClusterDaemon("monitor", "mon"),
    )
}
