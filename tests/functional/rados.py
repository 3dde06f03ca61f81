#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A repository in a Ceph pool, on a real cluster: all verbs, several hypervisors, users of few rights, and what a cluster
does that fails: OSDs that die, monitors that are gone, pools that are full, clients that are cut off.

rados.py STILLPOINT TEST-REPOSITORY
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed  # noqa: E402
from support.companion import first_document  # noqa: E402
from support.scratch import free_port, run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

PROGRAM = TESTS = None
MIB = 1 << 20
TIME_LIMIT = 120


class Rados(unittest.TestCase):
    scratch = ceph = None

    def url(self, name_space, pool="vault", **options):
        options = {"conf": self.ceph.conf, **options}
        return f"rados://{pool}/{name_space}?" + "&".join(f"{key.replace('_', '-')}={value}" for key, value in options.items())

    def stillpoint(self, url, *arguments, code=0):
        done = run([PROGRAM, "--repository", url, *arguments], TIME_LIMIT, check=False, env={"PATH": os.environ["PATH"]})
        self.assertEqual(done.returncode, code, done)
        return done

    @contextlib.contextmanager
    def backup_at_work(self, url, domain, image, *options, env=None):
        """A backup that runs meanwhile; ended at the end."""
        with subprocess.Popen(
            [PROGRAM, "--repository", url, "backup", domain, "--disk-image", f"vda={image}", "--json", *options],
            env={"PATH": os.environ["PATH"], **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as backup:
            try:
                yield backup
            finally:
                backup.kill()

    def finished(self, backup, code=0):
        output, errors = backup.communicate(timeout=TIME_LIMIT)
        self.assertEqual(backup.returncode, code, errors)
        return json.loads(output) if code == 0 else errors

    def backup(self, url, domain, image):
        with self.backup_at_work(url, domain, image) as backup:
            return self.finished(backup)

    def disk(self, name, size=5 * MIB):
        image = self.scratch / f"{name}.img"
        if not image.exists():
            image.write_bytes(hashlib.shake_256(name.encode()).digest(size))
        return image

    def init(self, name_space, **options):
        url = self.url(name_space, **options)
        self.stillpoint(url, "init")
        return url

    def objects(self, name_space, pool="vault"):
        return self.ceph.rados("-p", pool, "-N", name_space, "ls").split()

    def pieces(self, name_space, **options):
        return [name for name in self.objects(name_space, **options) if name.startswith("data/")]

    def entries(self, name_space, folder):
        return self.ceph.rados("-p", "vault", "-N", name_space, "listomapkeys", folder).split()

    def check(self, url, name, image):
        target = self.scratch / f"restored-{time.monotonic_ns()}"
        self.stillpoint(url, "restore", name, "--disk", "vda", "--to", target)
        self.assertEqual(target.read_bytes(), image.read_bytes())
        target.unlink()

    def listed(self, url):
        return [point["name"] for point in json.loads(self.stillpoint(url, "list", "--json").stdout)]


class Healthy(Rados):
    def test_two_hypervisors_at_once_all_the_way_and_back(self):
        url = self.init("both")
        images = {"web1": self.disk("first", 70 * MIB), "web2": self.disk("second", 30 * MIB)}
        with self.backup_at_work(url, "web1", images["web1"]) as one, self.backup_at_work(url, "web2", images["web2"]) as two:
            taken = {"web1": self.finished(one)["name"], "web2": self.finished(two)["name"]}
        self.assertEqual(self.listed(url), [taken["web1"], taken["web2"]])
        self.stillpoint(url, "verify", "--read-data")
        for domain, image in images.items():
            self.check(url, taken[domain], image)
        again = self.backup(url, "web2", images["web2"])
        self.assertLess(again["disks"][0]["stored"], MIB)
        self.stillpoint(url, "protect", again["name"])
        self.stillpoint(url, "delete", taken["web1"])
        self.stillpoint(url, "prune", "--keep-last", "1")
        self.assertEqual(self.listed(url), [again["name"]])
        self.check(url, again["name"], images["web2"])
        # The reserve, and what web2 needs.
        self.assertLess(len(self.pieces("both")), 1 + 30 // 4 + 4)
        with subprocess.Popen(
            [PROGRAM, "--repository", url, "serve", "web2", "--disk", "vda", "--socket", self.scratch / "socket", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PATH": os.environ["PATH"]},
        ) as server:
            try:
                uri = first_document(server.stdout)["uri"]
                run(["qemu-img", "compare", "-f", "raw", "-F", "raw", images["web2"], uri], TIME_LIMIT)
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(30)
        self.stillpoint(url, "unprotect", again["name"])
        self.stillpoint(url, "delete", again["name"])
        self.stillpoint(url, "prune", "--keep-last", "1")
        self.assertEqual(len(self.pieces("both")), 1, "the reserve alone is left")

    def test_namespaces_are_apart(self):
        one, two = self.init("one"), self.init("two")
        taken = self.backup(one, "web1", self.disk("third"))
        self.assertEqual((self.listed(one), self.listed(two)), ([taken["name"]], []))
        self.stillpoint(two, "prune", "--keep-last", "1")
        self.check(one, taken["name"], self.disk("third"))
        self.assertIn("rados://vault/one is not empty", self.stillpoint(one, "init", code=3).stderr)
        # Somebody else's objects.
        self.ceph.rados("-p", "vault", "-N", "foreign", "put", "theirs", self.disk("third"))
        self.assertIn("is not empty", self.stillpoint(self.url("foreign"), "init", code=3).stderr)

    def test_what_is_no_repository(self):
        self.init("urls")
        for url, says in (
            (self.url("nowhere"), "there is no repository at rados://vault/nowhere"),
            (self.url("urls", pool="other"), "there is no repository at rados://other/urls"),
            (self.url("urls", pool="none"), "has no pool 'none'"),
            (self.url("urls", id="nobody"), "client.nobody cannot connect"),
            (self.url("urls", conf="/nowhere/ceph.conf"), "cannot read /nowhere/ceph.conf"),
            (self.url("urls", keyring="x"), "the option 'keyring'"),
            (self.url("urls", data_pool="other"), "do not lie in pool 'other'"),
            ("rados:///x", "names no pool"),
        ):
            with self.subTest(url):
                self.assertIn(says, self.stillpoint(url, "list", code=3).stderr)

    def test_contents_in_another_pool(self):
        self.ceph.ask({"prefix": "osd pool create", "pool": "coded", "pg_num": 1, "pool_type": "erasure"})
        refused = self.stillpoint(self.url("apart", pool="coded"), "init", code=3).stderr
        self.assertIn("pool 'coded' is erasure-coded", refused)
        self.assertIn("data-pool=coded", refused)
        url = self.init("apart", data_pool="other")
        taken = self.backup(url, "web1", self.disk("first", 70 * MIB))
        # It is known from then on, also when the pool is called otherwise.
        self.ceph.ask({"prefix": "osd pool rename", "srcpool": "other", "destpool": "renamed"})
        try:
            self.check(self.url("apart"), taken["name"], self.disk("first"))
            self.assertGreater(len(self.pieces("apart", pool="renamed")), 10)
            self.assertEqual(self.pieces("apart"), [])
        finally:
            self.ceph.ask({"prefix": "osd pool rename", "srcpool": "renamed", "destpool": "other"})
        self.ceph.ask({"prefix": "osd pool create", "pool": "gone", "pg_num": 1})
        self.init("bereft", data_pool="gone")
        self.ceph.ask({"prefix": "osd pool delete", "pool": "gone", "pool2": "gone", "yes_i_really_really_mean_it": True})
        self.assertIn("has no pool", self.stillpoint(self.url("bereft"), "list", code=3).stderr)

    def test_a_user_of_few_rights(self):
        self.ceph.add_user("keeper", mon="allow r", osd="allow rwx pool=vault namespace=few")
        self.ceph.add_user("reader", mon="allow r", osd="allow r pool=vault namespace=few")
        url = self.init("few", id="keeper")
        taken = self.backup(url, "web1", self.disk("third"))
        again = self.backup(url, "web1", self.disk("third"))
        self.stillpoint(url, "delete", taken["name"])
        self.stillpoint(url, "prune", "--keep-last", "1")
        reader = self.url("few", id="reader")
        self.check(reader, again["name"], self.disk("third"))
        self.assertIn("Operation not permitted", self.stillpoint(reader, "delete", again["name"], code=3).stderr)
        self.assertIn("Operation not permitted", self.stillpoint(self.url("more", id="keeper"), "init", code=3).stderr)

    def test_the_faults_that_a_directory_is_tried_with(self):
        """Whatever a store does; then dying and failing at steps of a backup, a prune and a rebuild."""
        limit = 7200 if "STILLPOINT_TEST_STRIDE" in os.environ else TIME_LIMIT
        done = run(
            [TESTS, "-sf=*/store.cc,*/sweep.cc"], limit, check=False,
            env={
                "PATH": os.environ["PATH"], "STILLPOINT_TEST_STORE": f"rados://vault?conf={self.ceph.conf}",
                "STILLPOINT_TEST_STRIDE": os.environ.get("STILLPOINT_TEST_STRIDE", "41"), "TMPDIR": str(self.scratch),
            },
        )
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        print(done.stdout[-400:], file=sys.stderr)


class Troubled(Rados):
    def test_a_writer_that_was_killed_leaves_nothing_after_a_prune(self):
        url = self.init("killed")
        image = self.disk("first", 70 * MIB)
        before = len(self.pieces("killed"))
        with self.backup_at_work(url, "web1", image, "--limit", "60M") as backup:
            wait_until(lambda: len(self.pieces("killed")) > before + 2, 60, "some pieces are written")
        self.assertEqual(self.listed(url), [])
        self.stillpoint(url, "prune", "--keep-last", "1")
        self.assertEqual(len(self.pieces("killed")), before)

    def test_damaged_entries_and_a_sweep_that_did_not_end(self):
        url = self.init("damaged")
        taken = [self.backup(url, "web1", self.disk(name))["name"] for name in ("third", "fourth")]
        rados = functools.partial(self.ceph.rados, "-p", "vault", "-N", "damaged")
        pack = next(name for name in self.objects("damaged") if name.startswith("dir/packs/"))
        # Of 40 pieces the first were deleted, and of a piece far behind nobody has said that it is there.
        one, other, old = "1" * 32, "2" * 32, "1000000"
        for piece in (f"{one}.39", f"{other}.200"):
            rados("put", f"data/{piece}", self.disk("third"))
        rados("setomapval", pack, f"g.{one}", f"{old} 40")
        rados("setomapval", pack, f"g.{other}", old)
        # Since when somebody writes it nobody knows: he may be at it.
        rados("setomapval", pack, f"u.{'3' * 32}", "soon")
        (manifest,) = (entry for entry in self.entries("damaged", "dir/manifests/web1") if entry.startswith("n.") and taken[0].endswith(entry[2:]))
        rados("setomapval", "dir/manifests/web1", manifest, "rotten")
        listed = json.loads(self.stillpoint(url, "list", "--json", code=9).stdout)
        self.assertEqual([(point["name"], "damaged" in point) for point in listed], [(taken[0], True), (taken[1], False)])
        self.check(url, taken[1], self.disk("fourth"))
        self.assertIn("is damaged", self.stillpoint(url, "restore", taken[0], "--disk", "vda", "--to", self.scratch / "no", code=9).stderr)
        self.stillpoint(url, "delete", taken[0])
        self.stillpoint(url, "prune", "--keep-last", "1")
        self.assertEqual(self.listed(url), taken[1:])
        self.check(url, taken[1], self.disk("fourth"))
        self.assertEqual([piece for piece in self.pieces("damaged") if piece[5:].startswith((one, other))], [])
        self.assertIn(f"u.{'3' * 32}", self.entries("damaged", pack))

    def test_a_folder_that_was_lost(self):
        url = self.init("lost")
        taken = self.backup(url, "web1", self.disk("third"))
        self.stillpoint(url, "delete", self.backup(url, "web1", self.disk("fourth"))["name"])
        before = self.pieces("lost")
        self.ceph.rados("-p", "vault", "-N", "lost", "rm", "dir/manifests")
        for arguments in (("list",), ("prune", "--keep-last", "1")):
            with self.subTest(arguments):
                self.assertIn("dir/manifests of rados://vault/lost is lost", self.stillpoint(url, *arguments, code=9).stderr)
        # Nor is it made again for a domain that is new, with that one alone in it.
        with self.backup_at_work(url, "web2", self.disk("third")) as backup:
            self.assertIn("is lost", self.finished(backup, code=9))
        self.stillpoint(url, "prune", "--keep-last", "1", code=9)
        self.assertLessEqual(set(before), set(self.pieces("lost")))
        self.ceph.rados("-p", "vault", "-N", "lost", "create", "dir/manifests")
        self.ceph.rados("-p", "vault", "-N", "lost", "setomapval", "dir/manifests", "s.web1", "1")
        self.stillpoint(url, "prune", "--keep-last", "1")
        self.assertEqual(self.listed(url), [taken["name"]])
        self.check(url, taken["name"], self.disk("third"))

    def test_a_client_that_was_cut_off(self):
        url = self.init("blocked")
        image = self.disk("first", 70 * MIB)
        with self.backup_at_work(url, "web1", image, "--limit", "30M") as backup:
            wait_until(lambda: len(self.pieces("blocked")) > 3, 60, "some pieces are written")
            # All of this host's clients: new ones would be refused, too.
            self.ceph.ask({"prefix": "osd blocklist", "blocklistop": "add", "addr": "127.0.0.1:0/0", "expire": 600.0})
            try:
                errors = self.finished(backup, code=5)
            finally:
                self.ceph.ask({"prefix": "osd blocklist", "blocklistop": "rm", "addr": "127.0.0.1:0/0"})
        self.assertIn("block list", errors)
        self.assertEqual(self.listed(url), [])
        taken = self.backup(url, "web1", image)
        self.check(url, taken["name"], image)

    def test_an_osd_that_dies_and_comes_back(self):
        url = self.init("restarted")
        image = self.disk("first", 70 * MIB)
        with self.backup_at_work(url, "web1", image, "--limit", "40M") as backup:
            wait_until(lambda: len(self.pieces("restarted")) > 3, 60, "some pieces are written")
            self.ceph.stop("osd", signal.SIGKILL)
            self.ceph.start("osd")
            taken = self.finished(backup)
        self.check(url, taken["name"], image)

    def test_full(self):
        url = self.url("full")
        self.stillpoint(url, "init", "--chunk-size", "64K")
        small, large = self.disk("third"), self.disk("second", 30 * MIB)
        kept = self.backup(url, "web1", small)
        deleted = self.backup(url, "web2", self.disk("fourth", 30 * MIB))
        before = len(self.pieces("full"))
        # What filled it has packs that no table lists: more of their chunks than an entry has room for.
        for entry in self.entries("full", "dir/index"):
            self.ceph.rados("-p", "vault", "-N", "full", "rmomapkey", "dir/index", entry)
        self.fill_at(nearfull=0.00001, backfillfull=0.00005, full=0.0001)
        try:
            wait_until(self.is_full, 60, "a full pool")
            with self.backup_at_work(url, "web3", large) as backup:
                self.assertIn("make room in the pool", self.finished(backup, code=8))
            self.assertEqual(self.listed(url), [kept["name"], deleted["name"]])
            self.check(url, kept["name"], small)
            self.stillpoint(url, "delete", deleted["name"])
            self.stillpoint(url, "prune", "--keep-last", "1")
            self.assertLess(len(self.pieces("full")), before)
        finally:
            self.fill_at(full=0.95, backfillfull=0.9, nearfull=0.85)
            wait_until(lambda: not self.is_full(), 60, "room in the pool")
        with self.backup_at_work(url, "web3", large) as backup:
            self.check(url, self.finished(backup)["name"], large)

    def fill_at(self, **ratios):
        """From when on an OSD counts as full."""
        self.ceph.ask(*({"prefix": f"osd set-{name}-ratio", "ratio": ratio} for name, ratio in ratios.items()))

    def is_full(self):
        pools = self.ceph.ask({"prefix": "osd dump", "format": "json"})[0]["pools"]
        return all("full" in pool["flags_names"].split(",") for pool in pools if pool["type"] == 1)


class StoodStill(Rados):
    """Writers and prunes that are stopped, until others have taken their leases or changed what they have looked at."""

    @contextlib.contextmanager
    def late(self, url, domain, image, when=lambda: True):
        """A backup that is stopped before its commit, when that is so: the pause alone ends after half a minute."""
        pauses = pathlib.Path(tempfile.mkdtemp(prefix="pauses-", dir=self.scratch))
        (pauses / "commit").touch()
        with self.backup_at_work(url, domain, image, env={"STILLPOINT_TEST_PAUSE": str(pauses)}) as backup:
            reached = pauses / "commit.reached"
            wait_until(lambda: reached.exists() and when(), 60, "a backup that would commit")
            backup.send_signal(signal.SIGSTOP)
            reached.unlink()
            yield backup

    @contextlib.contextmanager
    def prune_that_waits(self, url, name_space):
        """A prune that has doomed packs, and waits for whoever may rely on them."""
        with subprocess.Popen(
            [PROGRAM, "--repository", url, "prune", "--wait", "5", "--json"], env={"PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as prune:
            try:
                wait_until(lambda: any(entry.startswith("n.") for entry in self.entries(name_space, "dir/waits")), 60, "a prune that waits")
                yield prune
            finally:
                prune.kill()

    def go_on(self, stopped, code=0):
        stopped.send_signal(signal.SIGCONT)
        return self.finished(stopped, code)

    def value(self, name_space, folder, entry):
        path = self.scratch / "value"
        self.ceph.rados("-p", "vault", "-N", name_space, "getomapval", folder, entry, path)
        return path.read_text(encoding="ascii")

    def set_value(self, name_space, folder, entry, value):
        self.ceph.rados("-p", "vault", "-N", name_space, "setomapval", folder, entry, value)

    def expire(self, name_space, stopped):
        """As if it had been stopped for half an hour: its leases are as old as that, and are not renewed."""
        long_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 20 * 60))
        found = 0
        for entry in self.entries(name_space, "dir/locks"):
            if not entry.startswith("d."):
                continue
            document = self.value(name_space, "dir/locks", entry)
            lease = json.loads(document)["lease"]
            if lease["process"] != stopped.pid:
                continue
            content = document.split('"lease":', 1)[1][:-2].replace(lease["expires"], long_ago)
            sealed = f'{{"sha256":"{hashlib.sha256(content.encode()).hexdigest()}","lease":{content}}}\n'
            self.assertEqual(len(sealed), len(document))
            self.set_value(name_space, "dir/locks", entry, sealed)
            found += 1
        self.assertGreater(found, 0)

    def packs(self, name_space, kind="n."):
        """Each by its folder's object and its entry there; "u.": those that are being written."""
        folders = [name for name in self.objects(name_space) if name.startswith("dir/packs/")]
        return {(folder, entry) for folder in folders for entry in self.entries(name_space, folder) if entry.startswith(kind)}

    def init_with_useless_packs(self, name_space):
        """A repository with a still point of "third", and packs with all of "fourth", whose still point is gone."""
        url = self.init(name_space)
        kept = self.backup(url, "web1", self.disk("third"))["name"]
        needed = self.packs(name_space)
        gone = self.backup(url, "web2", self.disk("fourth"))["name"]
        # Of yesterday: prune leaves alone what those who work may just have written.
        for pack in self.packs(name_space):
            *entry, written = self.value(name_space, *pack).split(" ")
            self.set_value(name_space, *pack, " ".join((*entry, str(int(written) - 86400 * 10**6))))
        self.stillpoint(url, "delete", gone)
        return url, kept, self.packs(name_space) - needed

    def pruned(self, url):
        return json.loads(self.stillpoint(url, "prune", "--json").stdout)["reclaimed"]

    def check_all(self, url, still_points):
        """Name and image of each that was acknowledged, in the order of their names."""
        self.assertEqual(self.listed(url), [name for name, _ in still_points])
        self.stillpoint(url, "verify", "--read-data")
        for name, image in still_points:
            self.check(url, name, self.disk(image))

    def test_a_writer_whose_lease_was_taken_commits_nothing(self):
        url, kept, useless = self.init_with_useless_packs("fenced")
        before = set(self.pieces("fenced"))
        with self.late(url, "web3", self.disk("fourth")) as relying:
            self.assertEqual(self.packs("fenced", "u."), set(), "it has found all that it needs")
            with self.late(url, "web4", self.disk("fifth")) as writing:
                self.assertEqual(len(self.packs("fenced", "u.")), 1)
                for backup in (relying, writing):
                    self.expire("fenced", backup)
                self.assertIn("has expired", self.stillpoint(url, "prune").stderr)
                self.assertTrue(useless.isdisjoint(self.packs("fenced")), "what one of them relied on is gone")
                self.assertEqual(self.packs("fenced", "u."), set(), "and what the other had begun")
                kept_pieces = before.intersection(self.pieces("fenced"))
                for backup in (relying, writing):
                    self.assertIn("its lease on the repository was taken away", self.go_on(backup, code=10))
        self.assertEqual(set(self.pieces("fenced")), kept_pieces)
        self.check_all(url, [(kept, "third")])
        taken = [(self.backup(url, domain, self.disk(image))["name"], image) for domain, image in (("web3", "fourth"), ("web4", "fifth"))]
        self.check_all(url, [(kept, "third"), *taken])

    def test_a_writer_whose_lease_was_taken_while_it_read(self):
        url = self.init("reading")
        before = self.pieces("reading")
        # The first pack is full before all is read.
        with self.backup_at_work(url, "web1", self.disk("sixth", 140 * MIB), "--limit", "100M") as backup:
            wait_until(lambda: len(self.pieces("reading")) > len(before) + 2, 60, "some pieces are written")
            backup.send_signal(signal.SIGSTOP)
            self.expire("reading", backup)
            self.stillpoint(url, "prune")
            self.assertIn("its lease on the repository was taken away", self.go_on(backup, code=10))
        self.assertEqual(self.listed(url), [])
        self.assertEqual(self.pieces("reading"), before)

    def test_a_lease_that_expired_and_that_nobody_took_holds(self):
        url, kept, useless = self.init_with_useless_packs("expired")
        with self.late(url, "web3", self.disk("fourth")) as backup:
            self.expire("expired", backup)
            # Others work meanwhile, but no prune.
            other = self.backup(url, "web4", self.disk("fifth"))["name"]
            self.stillpoint(url, "verify")
            taken = self.go_on(backup)["name"]
        self.check_all(url, [(kept, "third"), (taken, "fourth"), (other, "fifth")])
        self.stillpoint(url, "prune")
        self.assertLessEqual(useless, self.packs("expired"), "they are needed again")
        self.check_all(url, [(kept, "third"), (taken, "fourth"), (other, "fifth")])

    def test_a_backup_that_commits_after_a_prune_has_doomed_what_it_relies_on(self):
        url, kept, useless = self.init_with_useless_packs("late")
        before = self.packs("late")
        # Its first pack is full, and nothing needs it yet.
        large = (url, "web4", self.disk("first", 70 * MIB), lambda: len(self.packs("late")) > len(before))
        with self.late(url, "web3", self.disk("fourth")) as relying, self.late(*large) as writing:
            fresh = self.packs("late") - before
            pruned = self.pruned(url)
            self.assertEqual((pruned["packs_deleted"], pruned["packs_waiting"]), (0, len(useless)), pruned)
            taken = [(self.go_on(backup), image) for backup, image in ((relying, "fourth"), (writing, "first"))]
        self.assertLess(taken[0][0]["disks"][0]["stored"], MIB)
        still_points = [(kept, "third"), *((manifest["name"], image) for manifest, image in taken)]
        self.check_all(url, still_points)
        self.assertLessEqual(before | fresh, self.packs("late"))
        self.assertEqual(self.pruned(url)["packs_waiting"], 0)
        self.assertTrue(useless.isdisjoint(self.packs("late")), "what is needed of them is stored again")
        self.check_all(url, still_points)

    def test_a_backup_that_commits_while_a_prune_waits_for_it(self):
        url, kept, useless = self.init_with_useless_packs("waited")
        with self.late(url, "web3", self.disk("fourth")) as backup, self.prune_that_waits(url, "waited") as prune:
            # Whoever comes now knows of the doom.
            other = self.backup(url, "web4", self.disk("fourth"))
            self.assertGreater(other["disks"][0]["stored"], 4 * MIB)
            taken = self.go_on(backup)
            self.assertEqual(self.finished(prune)["reclaimed"]["packs_deleted"], len(useless))
        self.assertLess(taken["disks"][0]["stored"], MIB)
        self.assertTrue(useless.isdisjoint(self.packs("waited")))
        self.check_all(url, [(kept, "third"), (taken["name"], "fourth"), (other["name"], "fourth")])

    def test_a_prune_whose_lease_was_taken_deletes_nothing(self):
        url, kept, useless = self.init_with_useless_packs("overtaken")
        with self.late(url, "web3", self.disk("fourth")) as backup, self.prune_that_waits(url, "overtaken") as prune:
            prune.send_signal(signal.SIGSTOP)
            self.expire("overtaken", prune)
            self.assertEqual(self.pruned(url)["packs_waiting"], len(useless))
            taken = self.go_on(backup)["name"]
            self.assertIn("its lease on the repository was taken away", self.go_on(prune, code=10))
        self.assertLessEqual(useless, self.packs("overtaken"))
        self.check_all(url, [(kept, "third"), (taken, "fourth")])
        self.assertEqual(self.pruned(url)["packs_waiting"], 0)
        self.assertTrue(useless.isdisjoint(self.packs("overtaken")))
        self.check_all(url, [(kept, "third"), (taken, "fourth")])

    def test_a_lock_whose_holder_is_gone_ends_by_itself(self):
        url, key = self.url("locked"), self.disk("key", 64)
        with_key = functools.partial(self.stillpoint, url, "--key-file", key)
        with_key("init", "--encrypt")
        with_key("key", "add", "--label", "second", "--new-key-file", self.disk("second key", 64))

        def labels():
            return {row["label"]: row["id"] for row in json.loads(with_key("key", "list", "--json").stdout)}

        keys = labels()
        self.assertEqual(len(keys), 2)
        lasts = 4
        self.ceph.rados(
            "-p", "vault", "-N", "locked", "lock", "get", "lock/keys", "stillpoint", "--lock-cookie", "theirs", "--lock-duration", str(lasts)
        )
        end = time.monotonic() + lasts
        self.assertIn("somebody else removes a key", with_key("key", "remove", keys["second"], code=10).stderr)
        self.assertEqual(labels(), keys)
        time.sleep(max(0, end - time.monotonic()))
        with_key("key", "remove", keys.pop("second"))
        self.assertEqual(labels(), keys)


class WithoutMonitor(Rados):
    waiting = None  # began with the first test, for it takes its time

    @classmethod
    def begin(cls):
        conf = cls.scratch / "silent.conf"
        text = cls.ceph.conf.read_text(encoding="utf-8")
        conf.write_text(text.replace(f"v2:127.0.0.1:{cls.ceph.port}/0", f"v2:127.0.0.1:{free_port()}/0"), encoding="utf-8")
        cls.waiting = subprocess.Popen(
            [PROGRAM, "--repository", f"rados://vault/x?conf={conf}", "list"], env={"PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )

    def test_it_says_so_and_does_not_wait_for_ever(self):
        try:
            _, errors = self.waiting.communicate(timeout=60)
        finally:
            self.waiting.kill()
        self.assertEqual(self.waiting.returncode, 5, errors)
        self.assertIn("look whether its monitors run", errors)


def main():
    global PROGRAM, TESTS
    skip_unless_installed()
    PROGRAM, TESTS = os.path.abspath(sys.argv.pop(1)), os.path.abspath(sys.argv.pop(1))
    unwind_on_signals()
    more = "osd heartbeat interval = 1"
    with scratch_directory() as scratch, Ceph(scratch / "ceph", pools=(), more=more) as ceph:
        Rados.scratch, Rados.ceph = scratch, ceph
        for pool in ("vault", "other"):
            ceph.ask({"prefix": "osd pool create", "pool": pool, "pg_num": 8})
        WithoutMonitor.begin()
        return 0 if unittest.main(exit=False, verbosity=2).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
