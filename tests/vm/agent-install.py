#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that got its agent by installing our package, as a base image would; nothing in it is started by hand.

The channel is spoken by the test itself here, so that the agent is tested without the companion.
"""

import json
import pathlib
import secrets
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.agent import AgentChannel
from support.load import counts, start_load
from support.scratch import wait_until
from support.suite import WithGuest, run_with_guest

HOOK = "/usr/lib/stillpoint/fsfreeze-hook"
REPORT = "/var/lib/stillpoint/report.json"
DATABASES = {("postgresql", "shop"), ("postgresql", "ledger"), ("mariadb", "forum"), ("mariadb", "stock")}


class AgentInstall(WithGuest):
    def virsh(self, *arguments, check=True):
        return self.libvirtd.virsh(*arguments, self.guest.name, check=check)

    def report(self):
        return json.loads(self.guest.read_file(REPORT))

    def attested(self, report):
        """{(engine, database): record}"""
        return {(record["engine"], record["database"]): record for record in report["databases"]}

    def freeze_and_thaw(self):
        self.virsh("domfsfreeze")
        time.sleep(0.3)
        self.virsh("domfsthaw")

    def freezes_within_its_limits(self):
        """A freeze that nothing has prepared, on an emulated processor, may need more time than the hook gives it, and one
        while the agent comes up finds none: it fails, with nothing held, and the next one may succeed."""
        wait_until(lambda: self.virsh("domfsfreeze", check=False).returncode == 0, 180, "a freeze", 2)
        time.sleep(0.3)
        self.virsh("domfsthaw")

    def freezes_with_all_databases(self):
        """A server that was not ready in time is left out of the barrier, and its databases out of the report."""
        self.freezes_within_its_limits()
        report = self.report()
        self.assertTrue(report["quiesced"], report)
        return DATABASES <= set(self.attested(report))

    def test_1_boots_with_everything_running(self):
        self.assertEqual(self.guest.sh("cat /proc/1/comm").strip(), "systemd")
        for unit in ("stillpoint-agent", "qemu-guest-agent"):
            self.assertEqual(self.guest.sh(f"systemctl is-active {unit}", check=False).strip(), "active", unit)
        self.assertEqual(self.guest.sh("systemctl is-enabled stillpoint-agent").strip(), "enabled")
        command = self.guest.sh("tr '\\0' ' ' </proc/$(pidof qemu-ga)/cmdline")
        self.assertIn("-F" + HOOK, command)
        verified = self.guest.sh("dpkg --audit; dpkg --verify stillpoint-agent", check=False).splitlines()
        # The image keeps no documentation.
        self.assertEqual([line for line in verified if "/usr/share/doc" not in line and "/usr/share/man" not in line], [])

    def test_2_a_freeze_by_anybody_quiesces_under_load(self):
        start_load(self.guest)
        before = counts(self.guest)
        wait_until(self.freezes_with_all_databases, 180, "a freeze that quiesces every database", 2)
        wait_until(
            lambda: all(counts(self.guest)[engine] > before[engine] + 5 for engine in before), 60, "writers go on"
        )

    def test_3_a_prepared_freeze_opens_exact_dumps(self):
        still_point = secrets.token_hex(16)
        with AgentChannel(self.guest.agent_socket) as agent:
            prepared = agent.ask("prepare", "prepared", id=still_point, deadline_ms=60000)
            self.assertEqual([entry for entry in prepared["databases"] if not entry["ready"]], [])
            self.freeze_and_thaw()
            report = agent.ask("report", "report", id=still_point)["report"]
            self.assertTrue(report["quiesced"], report)
            attested = self.attested(report)
            for key in DATABASES:
                self.assertEqual(attested[key]["exactness"], "exact", attested[key])
            flagged = {entry["name"] for entry in attested["mariadb", "legacy"]["not_covered"]}
            self.assertEqual(flagged, {"`legacy`.`counters`", "`legacy`.`hits`"})
            self.assertEqual(self.report()["id"], still_point)
            names = [attested[key]["dump"] for key in sorted(DATABASES)]
            for name, dump in agent.dumps(still_point, names).items():
                self.assertIn(b"Dump completed" if name.startswith("mariadb") else b"dump complete", dump[-200:], name)
            agent.ask("finish", "finished", id=still_point)

    def test_4_no_agent_no_freeze(self):
        self.guest.sh("systemctl stop stillpoint-agent")
        done = self.virsh("domfsfreeze", check=False)
        self.assertNotEqual(done.returncode, 0, "a freeze succeeded although the databases were not quiesced")
        self.guest.sh("echo thawed >/srv/written && rm /srv/written && sync", 30)
        self.guest.sh("systemctl start stillpoint-agent")
        self.freezes_within_its_limits()
        self.assertTrue(self.report()["quiesced"])

    def test_5_a_killed_agent_comes_back(self):
        self.guest.sh("kill -KILL $(systemctl show -P MainPID stillpoint-agent)")
        self.freezes_within_its_limits()

    def ticks(self):
        return self.guest.console().count("tick")

    def test_6_nobody_thaws_so_the_guest_does(self):
        # qemu-ga goes on saying "frozen" and refuses to run anything, so a writer in the guest tells by the console.
        self.guest.sh("systemd-run -q --unit=tick sh -c 'while touch /srv/written; do echo tick >/dev/ttyS0; sleep 1; done'")
        wait_until(lambda: self.virsh("domfsfreeze", check=False).returncode == 0, 180, "a freeze", 2)
        time.sleep(2)
        frozen = self.ticks()
        time.sleep(4)
        self.assertEqual(self.ticks(), frozen, "the guest was not frozen")
        wait_until(lambda: self.ticks() > frozen, 60, "the watchdog's thaw", 0.5)
        self.virsh("domfsthaw", check=False)
        self.guest.sh("systemctl stop tick")
        before = counts(self.guest)
        wait_until(lambda: all(counts(self.guest)[name] > before[name] for name in before), 60, "writers go on")
        self.freezes_within_its_limits()


run_with_guest(companion=False, channel=True)
