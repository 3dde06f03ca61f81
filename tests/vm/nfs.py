#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writers, readers and prune at once, from two hosts, on one repository on NFS; and what NFS is known for.

The long form, run by hand as root: half an hour and more where the guest's processor is emulated, for prune waits two
minutes for other hosts' caches. STILLPOINT_NFS_SECONDS: how long the hosts work at once on NFS 4.2 (600); half as long
on NFS 3.
"""

import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.companion import built_companion
from support.nfs import EXPORTED, SQUASHED, Host, make_kit, start_server
from support.scratch import say, wait_until
from support.suite import WithGuest, run_with_guest

SECONDS = int(os.environ.get("STILLPOINT_NFS_SECONDS", "600"))
# The locks of NFS 3 are another server's, which needs a daemon on each host; no lock of a repository's is one.
VERSIONS = {"4.2": "vers=4.2", "3": "vers=3,nolock"}
CONFIGURATION, NOT_FOUND, STORAGE, CORRUPTION, LOCKED = 3, 4, 8, 9, 10  # docs/man/stillpoint.1
PRUNES = (
    "what no still point needs is deleted*,a pack of which little is needed*,whoever is dead holds nothing*,"
    "two prunes do not run at once,a lease that cannot be read*,what cannot be read deletes nothing,prune and rebuild work on*"
).split(",")
# What would take an emulated processor too long, or prunes too often.
TOO_LONG = (
    "whatever others commit*,dying or failing at any step*,losing or tearing what*,every flipped byte*,any flipped bit*,keys come and go*,"
    "rows that change all over*,increments upon increments*,a disk may grow*,an increment does not read*,prune waits for those*,"
    "many prunes and backups*,a still point that has another*,objects cut short*,a damaged chunk goes*,a pack that is cut short*,"
    "of a chunk that is stored twice*,a pack that is rewritten*,a damaged patch*,a damaged base*"
).split(",")


def instant(name):
    """By which still points are ordered: "web1@2026-11-22T08:20:11.5Z" comes after "web1@2026-11-22T08:20:11Z"."""
    return name.partition("@")[2].rstrip("Z").ljust(26, ".")


class Nfs(WithGuest):
    a = b = None
    prunes = []

    @classmethod
    def prepare(cls, suite):
        build = built_companion().parents[1]
        kit = make_kit(suite.image, build, suite.scratch)
        start_server(suite.libvirtd, suite.guest, kit, suite.scratch)
        cls.a, cls.b = Host(suite.guest, "host-a", 1), Host(suite.guest, "host-b", 2)
        for host in (cls.a, cls.b):
            host.start()
            for version, options in VERSIONS.items():
                host.mount(options, f"/mnt/{version}")
            host.sh(f"mkdir /var/tmp/{host.name}")

    def ends(self, host, begun, timeout, code=0):
        """The output of what the host has begun, which ends with that code."""
        ended = wait_until(lambda: host.ended(begun), timeout, f"{host.name}: {begun}", 2)
        self.assertEqual(ended[0], code, ended[1])
        return ended[1]

    def fails(self, code, says, host, verb, repository, *arguments):
        output = host.stillpoint(verb, repository, *arguments, check=False)
        self.assertIn(f"exit code {code}\n", output)
        self.assertIn(says, output)

    def image(self, host, name, mib):
        """A raw image of what does not compress, on the host's own disk."""
        path = f"/var/tmp/{host.name}/{name}.raw"
        host.sh(f"head -c {mib}M /dev/urandom >{path}", 300)
        return path

    def back_up(self, host, repository, domain, image):
        output = host.stillpoint("backup", repository, domain, "--no-trees", "--disk-image", f"vda={image}")
        return re.search(r"^name +(\S+)$", output, re.MULTILINE)[1]

    def restored(self, host, repository, name, timeout=600):
        """The SHA-256 of the disk, as the host reads it."""
        to = f"/var/tmp/{host.name}/out.raw"
        host.stillpoint("restore", repository, name, "--disk", "vda", "--to", to, "--overwrite", timeout=timeout)
        return host.sh(f"sha256sum <{to}", 300).split()[0]

    def names(self, host, repository):
        return set(re.findall(r"^(\S+@\S+)", host.stillpoint("list", repository), re.MULTILINE))

    def all_is_well(self, repository, *hosts):
        for host in hosts:
            self.assertIn("all is there", host.stillpoint("verify", repository, "--read-data", timeout=1200))

    def test_a_two_clients(self):
        for host in (self.a, self.b):
            mounted = host.sh("grep ' nfs' /proc/mounts")
            say(f"{host.name}: {mounted.strip()}")
            self.assertIn("vers=4.2", mounted)
            self.assertIn("vers=3", mounted)
            self.assertNotIn("soft", mounted)
        clients = self.guest.sh("cat /proc/fs/nfsd/clients/*/info")
        self.assertEqual(len(set(re.findall(r"^name: (.*)$", clients, re.MULTILINE))), 2, clients)
        # As a process of another host it can only be left to expire.
        spaces = [host.sh("readlink /proc/self/ns/pid; hostname") for host in (self.a, self.b)]
        self.assertNotEqual(*spaces)

    def test_b_objects_are_linked_into_place(self):
        for version in VERSIONS:
            with self.subTest(version):
                repository = f"/mnt/{version}/linked-{version}"
                trace = self.a.sh(f"strace -f -e trace=renameat2,link,linkat stillpoint init --repository {repository}", 300)
                self.assertRegex(trace, r'renameat2\(.*"/mnt/.*/config", RENAME_NOREPLACE\) = -1 EINVAL')
                self.assertRegex(trace, r'link(at)?\(.*"/mnt/.*/config".*\) = 0')
                self.assertEqual(self.b.sh(f"ls -A {repository}/tmp"), "")

    def together(self, version, seconds):
        repository = f"/mnt/{version}/together-{version}"
        a, b = self.a, self.b
        a.stillpoint("init", repository, "--chunk-size", "64K")
        sh_a, sh_b = (f"mkdir -p /var/tmp/{host.name}/{{0}}-{version} && exec nfs-host {{1}} {{2}} {repository}" for host in (a, b))
        half = seconds // 2
        begun = [
            (a, a.begin(sh_a.format("w", "write", seconds) + f" /var/tmp/host-a/w-{version} web1 1")),
            (b, b.begin(sh_b.format("w", "write", seconds) + f" /var/tmp/host-b/w-{version} web2 2")),
            # The same domain from both: its names are each given once.
            (b, b.begin(sh_b.format("x", "write", seconds) + f" /var/tmp/host-b/x-{version} web1 3")),
            (b, b.begin(sh_b.format("r", "read", seconds) + f" /var/tmp/host-b/r-{version}")),
            (a, a.begin(sh_a.format("p", "prune", half) + " --keep-last 2 --wait 5")),
            # For a while there may be two of them: each may end because of the other one.
            (b, b.begin(f"sleep {seconds * 6 // 10}; " + sh_b.format("p", "prune", seconds * 4 // 10) + " --keep-last 2 --wait 5")),
        ]
        killed = self.kill_a_writer(repository)
        lines = []
        for host, output in begun:
            text = self.ends(host, output, seconds + 2400)
            lines += [line.split(" ", 3) for line in text.splitlines()]
        self.holds(repository, self.judge(version, lines), killed)

    def judge(self, version, lines):
        """{name: SHA-256} of what was acknowledged; nothing went wrong that need not."""
        stored = {name: sha for kind, name, sha, *_ in (line for line in lines if line[0] == "stored")}
        counts = {kind: sum(line[0] == kind for line in lines) for kind in ("stored", "listed", "restored", "pruned", "failed")}
        say(f"NFS {version}: {counts}")
        for line in lines:
            if line[0] in ("pruned", "failed"):
                say(" ".join(line))
        for line in lines:
            if line[0] == "failed":
                # Another one prunes; it was deleted since it was listed; the other host was as quick with that name.
                fine = r"^failed (prune 10 |(show|restore) \S+ 4 |backup of web1 8 .*File exists)"
                self.assertRegex(" ".join(line), fine)
            if line[0] == "restored" and line[1] in stored:
                self.assertEqual(line[2], stored[line[1]], line)
        for kind in ("stored", "restored", "pruned"):
            self.assertGreater(counts[kind], 0, lines)
        return stored

    def kill_a_writer(self, repository):
        """kill -9, while a pack of its own is on its way."""
        image = self.image(self.a, f"killed-{pathlib.PurePath(repository).name}", 48)
        begun = self.a.begin(f"exec stillpoint backup --repository {repository} killed --no-trees --disk-image vda={image}")
        pid = wait_until(lambda: self.a.sh(f"pgrep -f '[k]it/bin/stillpoint backup.*{repository} killed'", check=False).split(), 120, "it began")[-1]
        wait_until(
            lambda: self.a.sh(f"ls -l /proc/{pid}/fd 2>/dev/null | grep -c {repository}/tmp/", check=False).strip() not in ("", "0"),
            180, "a pack on its way", 0.2,
        )
        self.a.sh(f"kill -9 {pid}")
        self.ends(self.a, begun, 60, 137)
        return "killed"

    def holds(self, repository, stored, killed):
        """What was acknowledged, and was the newest of its domain or is still there, is what it was; on both hosts."""
        a, b = self.a, self.b
        listed = self.names(a, repository)
        self.assertEqual(listed, self.names(b, repository))
        self.assertLessEqual(listed, set(stored))
        for domain in ("web1", "web2"):
            newest = sorted((name for name in stored if name.startswith(domain + "@")), key=instant)[-2:]
            self.assertLessEqual(set(newest), listed)
        self.all_is_well(repository, a, b)
        for number, name in enumerate(sorted(listed)[:: len(listed) // 24 + 1]):
            self.assertEqual(self.restored((a, b)[number % 2], repository, name), stored[name], name)
        # The one of the same host knows that the writer is dead; before, the other one could not.
        for host in (a, b):
            say(host.stillpoint("prune", repository, "--keep-last", "2", timeout=900).strip().splitlines()[-1])
        left = self.names(b, repository)
        self.assertEqual(len(left), 4)
        self.assertFalse(any(name.startswith(killed) for name in left))
        for name in sorted(left):
            for host in (a, b):
                self.assertEqual(self.restored(host, repository, name), stored[name], name)
        say(b.sh(f"stillpoint index rebuild --repository {repository}", 600).strip())
        self.all_is_well(repository, a, b)
        unfinished = a.sh(f"cd {repository} && ls -A tmp doomed waits locks 2>/dev/null | grep -v -e ':$' -e '^$'", check=False)
        self.assertEqual(unfinished, "")
        self.assertEqual(a.sh(f"find {repository} -name '.nfs*'"), "")

    def test_c_two_hosts_at_once(self):
        Nfs.prunes = []
        self.guest.sh(f"mkdir -p {EXPORTED}/unit")
        for name in PRUNES:
            # They mostly sleep.
            self.prunes.append(self.b.begin(f"TMPDIR=/mnt/4.2/unit timeout 2400 test-repository -tc='{name}'"))
        self.together("4.2", SECONDS)

    def test_d_two_hosts_at_once_on_version_3(self):
        self.together("3", SECONDS // 2)

    def test_e_deleted_while_it_is_open(self):
        """On the host that deletes it, it is renamed to .nfs...; that is no object."""
        a, b = self.a, self.b
        repository = "/mnt/4.2/silly"
        a.stillpoint("init", repository)
        image = self.image(a, "silly", 2)
        old = self.back_up(a, repository, "web1", image)
        held = f"$(find {repository}/manifests {repository}/packs {repository}/index -type f)"
        holder = a.begin(f"tail -f {held} >/dev/null & echo $!; wait")
        wait_until(lambda: a.sh("pgrep -x tail", check=False), 60, "the files are open")
        self.image(a, "silly", 2)
        new = self.back_up(a, repository, "web1", image)
        digest = a.sh(f"sha256sum <{image}").split()[0]
        a.sh(f"find {repository}/packs -type f -exec touch -d '1 day ago' {{}} +")
        say(a.stillpoint("prune", repository, "--keep-last", "1", timeout=900).strip().splitlines()[-1])
        silly = a.sh(f"find {repository} -name '.nfs*'").split()
        say(" ".join(silly))
        for kind in ("manifests", "packs"):
            self.assertTrue(any(f"/{kind}/" in path for path in silly), silly)
        for host in (a, b):
            self.assertEqual(self.names(host, repository), {new})
            self.fails(NOT_FOUND, old, host, "show", repository, old)
            self.assertNotIn(".nfs", host.stillpoint("prune", repository, timeout=900))
            self.assertEqual(self.restored(host, repository, new), digest)
        self.all_is_well(repository, a, b)
        a.sh("pkill -x tail")
        a.ended(holder)
        wait_until(lambda: not a.sh(f"find {repository} -name '.nfs*'").strip(), 60, "they go with who had them open")

    def test_f_deleted_while_it_is_read(self):
        """A reader that stands still for minutes keeps what it reads; one that may not write does not, and says so."""
        a, b = self.a, self.b
        for version, options in VERSIONS.items():
            b.mount(f"ro,{options}", f"/mnt/read-only-{version}")
        views = [(f"/mnt/{kind}{version}", version, not kind) for kind in ("", "read-only-") for version in VERSIONS]
        for view, version, kept in views:
            with self.subTest(view):
                directory = f"/mnt/{version}"
                repository = f"{directory}/read-{pathlib.PurePath(view).name}"
                a.stillpoint("init", repository)
                image = self.image(a, "read", 32)
                digest = a.sh(f"sha256sum <{image}").split()[0]
                name = self.back_up(a, repository, "web1", image)
                a.sh(f"find {repository}/packs -type f -exec touch -d '1 day ago' {{}} +")
                to = "/var/tmp/host-b/read.raw"
                seen = repository.replace(directory, view)
                restore = b.begin(f"exec stillpoint restore --repository {seen} {name} --disk vda --to {to} --limit 1M --overwrite")
                pid = wait_until(lambda: b.sh("pgrep -f '[k]it/bin/stillpoint restore.*read.raw'", check=False).split(), 120, "it began")[-1]
                wait_until(lambda: "packs" in b.sh(f"ls -l /proc/{pid}/fd", check=False), 120, "it reads")
                b.sh(f"kill -STOP {pid}")
                a.stillpoint("delete", repository, name)
                output = a.stillpoint("prune", repository, timeout=900)
                say(output.strip())
                packs = a.sh(f"find {repository}/packs -type f").split()
                # nsenter stops with the program that it waits for.
                b.sh(f"kill -CONT {pid}")
                self.guest.sh("pkill -CONT -x nsenter")
                if kept:
                    self.assertIn("host-b", output)
                    self.assertTrue(packs)
                    self.ends(b, restore, 300)
                    self.assertEqual(b.sh(f"sha256sum <{to}").split()[0], digest)
                else:
                    self.assertFalse(packs)
                    ended = wait_until(lambda: b.ended(restore), 300, "the restore")
                    say(f"exit code {ended[0]}: {ended[1].strip()}")
                    # NFS 4 keeps what is open; for NFS 3 it is gone.
                    if ended[0] == 0:
                        self.assertEqual(b.sh(f"sha256sum <{to}").split()[0], digest)
                    else:
                        self.assertEqual(ended[0], CORRUPTION, ended[1])
                        self.assertIn("deleted by another host", ended[1])

    def test_g_a_server_that_stands_still(self):
        """Stopped for 30 seconds in the middle of a backup: it goes on afterwards."""
        a, b = self.a, self.b
        for version in VERSIONS:
            with self.subTest(version):
                repository = f"/mnt/{version}/stopped-{version}"
                a.stillpoint("init", repository)
                image = self.image(a, "stopped", 24)
                digest = a.sh(f"sha256sum <{image}").split()[0]
                # Large enough to be in the middle when the server stops.
                backup = a.begin(f"exec stillpoint backup --repository {repository} web1 --no-trees --disk-image vda={image} --limit 2M")
                wait_until(lambda: a.sh(f"ls {repository}/tmp 2>/dev/null", check=False).strip(), 120, "it writes", 0.5)
                self.guest.sh("rpc.nfsd 0")
                listing = b.begin(f"exec stillpoint list --repository {repository}")
                self.guest.sh("sleep 30", 60)
                self.assertIsNone(a.ended(backup))
                self.assertIsNone(b.ended(listing))
                self.guest.sh("rpc.nfsd 4")
                self.ends(b, listing, 300)
                name = re.search(r"^name +(\S+)$", self.ends(a, backup, 600), re.MULTILINE)[1]
                # A host that has looked just now may keep what it saw for a minute.
                wait_until(lambda: name in b.stillpoint("list", repository), 120, f"{name} on the other host", 2)
                self.assertEqual(self.restored(b, repository, name), digest)
                self.all_is_well(repository, a, b)

    def test_h_a_server_that_squashes_root(self):
        b = self.b
        for version, options in VERSIONS.items():
            with self.subTest(version):
                at = f"/mnt/squashed-{version}"
                b.mount(options, at, SQUASHED)
                self.fails(STORAGE, "root_squash", b, "init", f"{at}/new")
                self.guest.sh(f"stillpoint init --repository {SQUASHED}/{version}")
                self.fails(CONFIGURATION, "root_squash", b, "list", f"{at}/{version}")
                image = self.image(b, "squashed", 1)
                self.fails(CONFIGURATION, "root_squash", b, "backup", f"{at}/{version}", "web1", "--no-trees", "--disk-image", f"vda={image}")
                self.guest.sh(f"chown -R nobody {SQUASHED}/{version}")
                # Whom the server refuses, a host remembers too.
                wait_until(lambda: b.stillpoint("list", f"{at}/{version}", check=False).endswith("code 0\n"), 180, "nobody may", 5)
                name = self.back_up(b, f"{at}/{version}", "web1", image)
                self.assertEqual(self.restored(b, f"{at}/{version}", name), b.sh(f"sha256sum <{image}").split()[0])
                self.all_is_well(f"{at}/{version}", b)

    def test_i_a_lock_of_clusters(self):
        """flock(2), as lock_clusters() takes it, holds between hosts on 4.2."""
        lock = "/mnt/4.2/lock"
        self.guest.sh(f"touch {EXPORTED}/lock")
        held = self.a.begin(f"exec flock -n {lock} sleep 20")
        wait_until(lambda: self.a.sh("pgrep -x sleep", check=False), 60, "the lock")
        self.guest.sh("sleep 2")
        self.assertIn("busy", self.b.sh(f"flock -n {lock} true || echo busy"))
        self.ends(self.a, held, 120)
        self.b.sh(f"flock -n {lock} true", 60)

    def test_j_unit_tests(self):
        self.guest.sh(f"mkdir -p {EXPORTED}/unit")
        rest = self.a.begin(f"TMPDIR=/mnt/4.2/unit timeout 2400 test-repository -d -tce='{','.join([*PRUNES, *TOO_LONG])}'")
        for host, begun in [(self.b, begun) for begun in self.prunes] + [(self.a, rest)]:
            with self.subTest(begun):
                output = self.ends(host, begun, 2400)
                say(output.strip().splitlines()[-2])
                # A filter that fits no test case any more would pass.
                self.assertRegex(output, r"test cases: +[1-9]\d* ")


run_with_guest(Nfs.prepare, companion=False, failfast=False)
