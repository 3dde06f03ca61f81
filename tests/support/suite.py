# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every suite with a guest begins and ends with."""

import sys
import unittest

from .companion import Companion, built_companion
from .guest import Guest, fresh_disks
from .image import build_packages, guest_image
from .libvirtd import Libvirtd, domain_type, skip_unless_possible
from .scratch import scratch_directory, unwind_on_signals

JOURNAL = "journalctl -b --no-pager _SYSTEMD_UNIT=stillpoint-agent.service + SYSLOG_IDENTIFIER=stillpoint-fsfreeze-hook | tail -n 60"


class ToldAtOnce(unittest.TextTestResult):
    """Says what failed when it does: a suite that is ended for its time had said nothing."""

    def addError(self, test, err):
        super().addError(test, err)
        self.stream.writeln(self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.stream.writeln(self.failures[-1][1])


class WithGuest(unittest.TestCase):
    """One guest, web1, for all methods of a program; they run in the order of their names."""

    scratch = None
    image = None
    kind = None
    libvirtd = None
    guest = None
    companion = None  # with a repository of its own, where it was asked for

    @classmethod
    def begin_anew(cls, repository):
        """A companion with an empty repository of that name, which starts from no checkpoint."""
        for checkpoint in cls.libvirtd.virsh("checkpoint-list", "--name", cls.guest.name).stdout.split():
            cls.libvirtd.virsh("checkpoint-delete", cls.guest.name, checkpoint)
        cls.companion = Companion(built_companion(), cls.libvirtd.uri, cls.scratch / repository)
        cls.companion.init()


def run_with_guest(prepare=lambda suite: None, companion=True, channel=False, failfast=True):
    """Boots web1, calls `prepare` with the class that holds everything, runs the program's tests, and ends it."""
    unwind_on_signals()
    skip_unless_possible()
    image = guest_image(build_packages("--agent-only")["stillpoint-agent"])
    kind = domain_type(image)
    with scratch_directory() as scratch, Libvirtd(scratch / "libvirtd") as libvirtd:
        WithGuest.scratch, WithGuest.image, WithGuest.kind, WithGuest.libvirtd = scratch, image, kind, libvirtd
        if companion:
            WithGuest.companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
            WithGuest.companion.init()
        disks = fresh_disks(image, scratch / "web1")
        with Guest(libvirtd, image, "web1", disks, kind, scratch / "web1", channel=channel) as guest:
            guest.wait_agent()
            guest.wait_databases()
            WithGuest.guest = guest
            prepare(WithGuest)
            runner = unittest.TextTestRunner(verbosity=2, failfast=failfast, resultclass=ToldAtOnce)
            result = unittest.main(argv=sys.argv, exit=False, testRunner=runner).result
            if not result.wasSuccessful():
                print((scratch / "libvirtd/libvirtd.log").read_text(encoding="utf-8")[-4000:])
                if "running" in libvirtd.virsh("domstate", "web1").stdout:
                    print(guest.sh(JOURNAL, check=False))
    sys.exit(0 if result.wasSuccessful() else 1)
