#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The MariaDB engine on a node of a real Galera cluster: galera.py MYSQL-DRIVER AGENT [unittest arguments]

Three nodes on the loopback device. The still point is always taken of the first, while clients write to the others.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import mariadb
from mariadb import SCHEMA, SLOW_ALTER, SLOW_TABLE, Driver, Server, comparable, free_port, wait_until
from support.agent import AgentChannel, start_agent
from support.proof import MARIADB_DATABASE

AGENT = ""
PROVIDER = "/usr/lib/galera/libgalera_smm.so"


class Node(Server):
    def status(self, name):
        return self.sql(f"SET wsrep_sync_wait = 0; SHOW GLOBAL STATUS LIKE 'wsrep_{name}'").split("\t")[-1].strip()

    def synced(self):
        return self.status("local_state_comment") == "Synced"


def make_cluster(scratch):
    """Copies of one empty server that has been in a cluster by itself: nobody needs a state transfer."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    nodes = []
    for number, address in enumerate(addresses):
        options = [
            *("--wsrep-on=ON", f"--wsrep-provider={PROVIDER}", "--wsrep-cluster-name=test", "--binlog-format=ROW"),
            *(f"--wsrep-cluster-address=gcomm://{','.join(addresses)}", f"--wsrep-node-address={address}"),
            *("--innodb-autoinc-lock-mode=2", "--wsrep-sst-method=rsync", f"--wsrep-node-name=node{number}"),
            f"--wsrep-sst-receive-address=127.0.0.1:{free_port()}",
            f"--wsrep-provider-options=gmcast.listen_addr=tcp://{address};ist.recv_addr=127.0.0.1:{free_port()};"
            "gcache.size=16M;pc.recovery=false",
        ]
        nodes.append(Node(os.path.join(scratch, f"node{number}"), options, free_port()))
    first = nodes[0]
    first.install()
    first.options.append("--wsrep-new-cluster")
    first.start()
    first.sql(f"CREATE DATABASE shop; USE shop;\n{SCHEMA}")
    first.sql("SHUTDOWN")
    first.process.wait(30)
    for node in nodes[1:]:
        shutil.copytree(first.directory, node.directory)
        subprocess.run(["chown", "-R", "mysql:mysql", node.directory], check=True)
    state = pathlib.Path(first.data, "grastate.dat")
    state.write_text(state.read_text("ascii").replace("bootstrap: 0", "bootstrap: 1"), "ascii")
    return nodes


class Galera(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.mkdtemp(prefix="stillpoint-galera-")
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        os.chmod(cls.scratch, 0o755)
        cls.nodes = make_cluster(cls.scratch)
        for node in cls.nodes:
            cls.addClassCleanup(node.stop)
        cls.nodes[0].start()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, cls.nodes[1:]))
        cls.wait_for_all()

    @classmethod
    def wait_for_all(cls):
        wait_until(lambda: all(node.synced() for node in cls.nodes), "the cluster to be synced")

    def driver(self, *mode, node=0):
        driver = Driver(self.nodes[node], self.scratch, *mode)
        self.addCleanup(driver.kill)
        self.assertTrue(driver.first["ok"], driver.first)
        return driver

    def start_writers(self):
        writers = [node.background("CALL buy_for_ever();", "shop") for node in self.nodes[1:]]

        def stop():
            for node in self.nodes[1:]:
                running = "FROM information_schema.processlist WHERE db = 'shop' AND user = 'root'"
                node.sql(node.sql(f"SELECT CONCAT('KILL ', id, ';') {running}"))
            for writer in writers:
                writer.wait(10)
            self.wait_for_all()

        self.addCleanup(stop)
        self.wait_for_writes(self.nodes[0])

    def wait_for_writes(self, node):
        before = int(node.status("last_committed"))
        wait_until(lambda: int(node.status("last_committed")) > before + 20, "write load")

    def copy(self):
        """The first node's data directory at one instant, as a server without a cluster."""
        copy = Server(tempfile.mkdtemp(prefix="copy-", dir=self.scratch))
        self.addCleanup(shutil.rmtree, copy.directory)
        shutil.chown(copy.directory, "mysql", "mysql")
        self.nodes[0].process.send_signal(signal.SIGSTOP)
        try:
            subprocess.run(["cp", "-a", "--reflink=auto", self.nodes[0].data, copy.data], check=True, timeout=60)
        finally:
            self.nodes[0].process.send_signal(signal.SIGCONT)
        return copy

    def recovered_position(self, copy):
        """What a node that starts from the copy tells the cluster that it has."""
        command = ["mariadbd", "--no-defaults", f"--datadir={copy.data}", "--user=mysql", "--wsrep-recover"]
        command += ["--wsrep-on=ON", f"--wsrep-provider={PROVIDER}", "--wsrep-cluster-address=gcomm://"]
        command += ["--binlog-format=ROW", "--log-bin=bin", "--innodb-log-file-size=16M", "--skip-networking"]
        command += [f"--log-error={copy.directory}/recover.err"]
        subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL, env=copy.environment())
        log = pathlib.Path(copy.directory, "recover.err").read_text("utf-8", "replace")
        return re.search(r"Recovered position: (\S+)", log)[1]

    def test_the_cluster_writes_on_and_the_dump_is_that_of_the_recovered_copy(self):
        # As a site has it that reads its own writes on any node: inside the barrier it would wait for ever.
        self.nodes[0].sql("SET GLOBAL wsrep_sync_wait = 15")
        self.addCleanup(self.nodes[0].sql, "SET GLOBAL wsrep_sync_wait = 0")
        self.start_writers()
        for mode in ((), ("read-lock",)):
            driver = self.driver(*mode)
            driver.do("prepare")
            quiesced = driver.do("quiesce", 3000)
            held = self.nodes[0].status("last_committed")
            self.wait_for_writes(self.nodes[1])
            copy = self.copy()
            self.assertEqual(self.nodes[0].status("last_committed"), held)
            self.assertEqual(self.nodes[0].status("local_state_comment"), "Donor/Desynced")
            self.assertFalse(any("galera_state" in entry["position"] for entry in driver.report().values()))
            released = driver.do("release", 5000)
            report = driver.report()["shop"]
            print(
                f"{report['mode']}: quiesced in {quiesced['ms']:.1f} ms, "
                f"{report['position']['galera_state']} {released['ms']:.1f} ms after the release",
                flush=True,
            )
            self.assertEqual(report["exactness"], "exact", report)
            self.assertEqual(report["position"]["galera_state"], "Synced")
            self.assertTrue(report["position"]["galera"].endswith(f":{held}"))
            path = os.path.join(self.scratch, "dump.sql")
            driver.do("dump", report["dump"], path)
            driver.do("finish")
            driver.kill()
            self.assertEqual(self.recovered_position(copy), report["position"]["galera"])
            self.addCleanup(copy.stop)
            copy.start()
            with open(path, "rb") as dump:
                self.assertEqual(
                    comparable(dump.read()).splitlines(),
                    comparable(copy.dump(*MARIADB_DATABASE, "shop")).splitlines(),
                )
            copy.stop()

    def test_whoever_kills_the_agent_syncs_the_node(self):
        for mode in ((), ("read-lock",)):
            driver = self.driver(*mode)
            driver.do("prepare")
            driver.do("quiesce", 3000)
            self.assertFalse(self.nodes[0].synced())
            driver.kill()
            self.wait_for_all()
            self.assertEqual(self.nodes[0].status("desync_count"), "0")

    def test_a_node_that_is_not_synced_is_left_alone(self):
        driver = self.driver()
        driver.do("prepare")
        # What the operator has desynced stays so.
        self.nodes[0].sql("SET GLOBAL wsrep_desync = ON")
        try:
            answer = driver.try_to("quiesce", 3000)
            self.assertFalse(answer["ok"])
            self.assertIn("is Donor/Desynced in a Primary component", answer["message"])
            answer = driver.try_to("prepare")
            self.assertFalse(answer["ok"])
            self.assertIn("is Donor/Desynced", answer["message"])
            self.assertEqual(self.nodes[0].sql("SELECT @@wsrep_desync").strip(), "1")
        finally:
            self.nodes[0].sql("SET GLOBAL wsrep_desync = OFF")
        self.wait_for_all()
        # Nor is one of which its server says nothing: it applies what others write, but would not pause for a barrier.
        self.nodes[0].sql("SET GLOBAL wsrep_on = OFF")
        try:
            answer = self.driver().try_to("prepare")
        finally:
            self.nodes[0].sql("SET GLOBAL wsrep_on = ON")
        self.assertFalse(answer["ok"])
        self.assertIn("is not connected", answer["message"])

    def test_two_nodes_at_once_hold_nobody_else_up(self):
        drivers = [self.driver(node=number) for number in (0, 1)]
        for driver in drivers:
            driver.do("prepare")
        for driver in drivers:
            driver.do("quiesce", 3000)
        self.nodes[2].sql("UPDATE shop.account SET balance = balance + 1", timeout=5)
        for driver in drivers:
            driver.do("release", 5000)
            self.assertEqual(driver.report()["shop"]["position"]["galera_state"], "Synced")
            driver.do("finish")

    def test_an_agent_holds_one_node_and_names_the_cluster(self):
        """So that companions hold no two, in guests of their own."""
        directory = tempfile.mkdtemp(prefix="agent-", dir=self.scratch)
        os.symlink(os.path.join(os.path.dirname(AGENT), "stillpoint-watchdog"), f"{directory}/stillpoint-watchdog")
        settings = f"report_path={directory}/report.json\n[postgresql]\nenabled=false\n"
        settings += f"[mysql]\nsockets={self.nodes[0].socket};{self.nodes[1].socket}\n"
        with open(f"{directory}/log", "ab") as log:
            agent, connected = start_agent(AGENT, directory, settings, log, {**os.environ, "STILLPOINT_LIBEXEC": directory})
        self.addCleanup(lambda: agent.terminate() or agent.wait(30))
        with AgentChannel(connected=connected) as channel:
            prepared = channel.ask("prepare", "prepared", id="a" * 32, deadline_ms=60000)
            self.assertEqual(prepared["clusters"], ["galera-" + self.nodes[2].status("cluster_state_uuid")])
            ready = {(entry["instance"], entry["ready"]) for entry in prepared["databases"]}
            self.assertEqual(len(ready), 2, prepared)
            refused = [entry for entry in prepared["databases"] if not entry["ready"]]
            self.assertIn("another node of its cluster", refused[0]["reason"])
            channel.ask("finish", "finished", id="a" * 32)

    def test_changed_definitions_break_the_dump_and_not_the_cluster(self):
        """A cluster gives a changed definition the right of way: on every node, at once, whoever reads the table."""
        self.addCleanup(self.nodes[0].sql, "DROP DATABASE IF EXISTS change_me")
        for node in self.nodes[:2]:
            self.nodes[0].sql(
                "CREATE OR REPLACE DATABASE change_me; CREATE TABLE change_me.t (i INT PRIMARY KEY);"
                "INSERT INTO change_me.t VALUES (1), (2)"
            )
            driver = self.driver()
            driver.do("prepare")
            driver.do("quiesce", 3000)
            driver.do("release", 5000)
            node.sql("ALTER TABLE change_me.t ADD COLUMN v INT DEFAULT 7", timeout=10)
            node.sql("INSERT INTO change_me.t VALUES (3, 3)", timeout=10)
            count = "SELECT COUNT(*) FROM change_me.t"
            wait_until(lambda: self.nodes[0].sql(count).strip() == "3", "the row on the first node")
            answer = driver.try_to("dump", "mariadb/default/change_me", os.path.join(self.scratch, "changed.sql"))
            self.assertFalse(answer["ok"])
            self.assertIn("Deadlock found", answer["message"])
            driver.do("finish")

    def test_a_long_alter_costs_the_deadline_and_no_more(self):
        self.nodes[0].sql(SLOW_TABLE, "shop")
        self.addCleanup(self.nodes[0].sql, "DROP TABLE shop.slow")
        driver = self.driver()
        driver.do("prepare")
        alter = self.nodes[1].background(SLOW_ALTER, "shop")
        self.addCleanup(lambda: alter.kill() or alter.wait(10))
        wait_until(lambda: "copy to tmp" in self.nodes[0].sql("SHOW FULL PROCESSLIST"), "the ALTER to run")
        # A node can only pause between two of the cluster's changes, and this is one.
        answer = driver.try_to("quiesce", 1000)
        self.assertFalse(answer["ok"])
        self.assertIsNone(alter.poll(), "the barrier waited for the ALTER")
        driver.do("finish")
        self.assertEqual(alter.wait(40), 0)
        wait_until(lambda: self.nodes[0].status("desync_count") == "0", "the node to be let go")
        self.wait_for_all()


if __name__ == "__main__":
    if os.geteuid() != 0 or not shutil.which("mariadbd") or not os.path.exists(PROVIDER):
        print("needs root, mariadbd and galera-4")
        sys.exit(77)
    mariadb.DRIVER, AGENT = sys.argv.pop(1), os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
