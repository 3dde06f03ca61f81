#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A repository on another machine, by a real sshd on loopback: with an account that may do all, and one that may only add.

remote.py STILLPOINT
"""

import getpass
import hashlib
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.scratch import free_port, run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

PROGRAM = None
MIB = 1 << 20
TIME_LIMIT = 120


class Sshd:
    """A server of our own, with a key for each command that it may run."""

    def __init__(self, scratch, commands):
        self.scratch = scratch
        self.port = free_port()
        self.keys = {}
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scratch / "host"], 30)
        lines = []
        for name, command in commands.items():
            key = self.keys[name] = scratch / f"key-{name}"
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], 30)
            public = key.with_suffix(".pub").read_text(encoding="ascii").strip()
            lines.append(f'command="{command}",restrict {public}\n')
        (scratch / "authorized").write_text("".join(lines), encoding="utf-8")
        host = (scratch / "host.pub").read_text(encoding="ascii")
        (scratch / "known").write_text(f"[127.0.0.1]:{self.port} {host}", encoding="ascii")
        (scratch / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {scratch / 'host'}\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {scratch / 'authorized'}\nPasswordAuthentication no\nPermitRootLogin yes\nUsePAM no\n",
            encoding="utf-8",
        )
        self.process = None

    def __enter__(self):
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", self.scratch / "config"], stdin=subprocess.DEVNULL,
            stderr=open(self.scratch / "sshd.log", "wb"),
        )
        wait_until(self.answers, 20, "sshd answers")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError((self.scratch / "sshd.log").read_text(encoding="utf-8"))
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def rsh(self, name):
        return (
            f"ssh -F none -i {self.keys[name]} -o IdentitiesOnly=yes -o UserKnownHostsFile={self.scratch / 'known'} "
            "-o LogLevel=ERROR"
        )


class Remote(unittest.TestCase):
    scratch = None
    sshd = None
    path = None

    @classmethod
    def url(cls):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{cls.sshd.port}{cls.path}"

    def stillpoint(self, *arguments, key="admin", url=None, code=0, env=None):
        environment = {
            "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "STILLPOINT_RSH": self.sshd.rsh(key),
            "STILLPOINT_REPOSITORY": url or self.url(), **(env or {}),
        }
        done = run([PROGRAM, *arguments], TIME_LIMIT, check=False, env=environment)
        self.assertEqual(done.returncode, code, done)
        return done

    def disk(self, name, size=24 * MIB):
        image = self.scratch / name
        if not image.exists():
            image.write_bytes(hashlib.shake_256(name.encode()).digest(size))
        return image

    def backup(self, domain, image, **options):
        done = self.stillpoint("backup", domain, "--disk-image", f"vda={image}", "--json", **options)
        return json.loads(done.stdout)

    def objects(self):
        """What is stored, but for leases: {name: digest}."""
        return {
            str(path.relative_to(self.path)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.path.rglob("*") if path.is_file() and path.relative_to(self.path).parts[0] != "locks"
        }

    def packs(self):
        return sum(path.is_file() for path in (self.path / "packs").rglob("*"))

    def restored(self, name, **options):
        target = self.scratch / f"restored-{time.monotonic_ns()}"
        self.stillpoint("restore", name, "--disk", "vda", "--to", target, **options)
        content = target.read_bytes()
        target.unlink()
        return content


class WithAllRights(Remote):
    def test_all_the_way_and_back(self):
        image = self.disk("first")
        taken = self.backup("web1", image)
        self.assertEqual(self.restored(taken["name"]), image.read_bytes())
        again = self.backup("web1", image)
        self.assertLess(again["disks"][0]["stored"], MIB)
        listed = json.loads(self.stillpoint("list", "web1", "--json").stdout)
        self.assertEqual([point["name"] for point in listed], [taken["name"], again["name"]])
        self.stillpoint("verify", "--read-data")
        self.stillpoint("delete", taken["name"])
        self.stillpoint("prune", "--keep-last", "1")
        self.assertEqual(self.restored(again["name"]), image.read_bytes())
        # The same repository, where it lies.
        self.stillpoint("verify", "--read-data", url=str(self.path))
        self.stillpoint("delete", again["name"])
        self.stillpoint("prune", "--keep-last", "1")
        self.assertEqual(list((self.path / "locks").glob("*-*")), [])

    def test_another_path_than_the_accounts(self):
        done = self.stillpoint("list", url=self.url() + "x", code=3)
        self.assertIn(f"this account serves {self.path}, and not {self.path}x", done.stderr)

    def test_what_is_no_address(self):
        for url, says in (
            ("ssh://host", "names no path"), ("ssh:///path", "names no host"), ("ssh://-oProxyCommand=x/path", "no host"),
            ("ssh://host:0/path", "'0' is no port"), ("ssh://host:x/path", "'x' is no port"), ("ssh://@host/path", "user"),
            ("ssh://[::1/path", "lacks a ']'"),
        ):
            with self.subTest(url):
                self.assertIn(says, self.stillpoint("list", url=url, code=3).stderr)

    def test_nobody_answers(self):
        done = self.stillpoint("list", url=f"ssh://127.0.0.1:{free_port()}{self.path}", code=5)
        self.assertIn("the connection to 127.0.0.1 has ended", done.stderr)
        self.stillpoint("list", env={"STILLPOINT_RSH": "no-such-program"}, code=3)

    def test_the_connection_is_cut(self):
        """In the middle of a backup: it says so, leaves nothing that is in the way, and the next one goes on."""
        image = self.disk("large", 100 * MIB)
        before = self.packs()
        environment = {
            "PATH": os.environ["PATH"], "STILLPOINT_RSH": self.sshd.rsh("admin"), "STILLPOINT_REPOSITORY": self.url(),
        }
        with subprocess.Popen(
            [PROGRAM, "backup", "web2", "--disk-image", f"vda={image}", "--limit", "30M"], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as backup:
            wait_until(lambda: self.packs() > before, 60, "a pack is complete")
            ssh = run(["pgrep", "-P", str(backup.pid), "-x", "ssh"], 10).stdout.split()
            os.kill(int(ssh[0]), signal.SIGKILL)
            _, errors = backup.communicate(timeout=60)
        self.assertEqual(backup.returncode, 5, errors)
        self.assertIn("the connection to 127.0.0.1 has ended", errors)
        wait_until(lambda: not list((self.path / "tmp").glob("*")), 20, "the server drops what was unfinished")
        taken = self.backup("web2", image)
        self.assertLess(taken["disks"][0]["stored"], 60 * MIB, "what was stored before is stored again")
        self.assertEqual(self.restored(taken["name"]), image.read_bytes())


class Channel:
    """The store's protocol as an intruder speaks it, who has the key that may only add."""

    def __init__(self, sshd, path):
        command = sshd.rsh("writer").split() + ["-p", str(sshd.port), f"{getpass.getuser()}@127.0.0.1", "x"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.calls = 0
        self.ask("hello", version=1, path=str(path), access="write")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def tell(self, what, body=b"", **fields):
        head = json.dumps({"do": what, **fields}).encode()
        self.process.stdin.write(struct.pack("<II", len(head), len(body)) + head + body)
        self.process.stdin.flush()

    def ask(self, what, body=b"", **fields):
        self.calls += 1
        self.tell(what, body, call=self.calls, **fields)
        head, body = struct.unpack("<II", self.process.stdout.read(8))
        answer = json.loads(self.process.stdout.read(head))
        self.process.stdout.read(body)
        assert answer["call"] == self.calls, answer
        return answer

    def put(self, name, content=b"content"):
        self.calls += 1
        number = self.calls
        self.tell("write", object=number, name=name)
        self.tell("append", content, object=number)
        return self.ask("commit", object=number)


class AddingOnly(Remote):
    def test_backups_and_restores(self):
        image = self.disk("first")
        taken = self.backup("db1", image, key="writer")
        again = self.backup("db1", image, key="writer")
        self.assertLess(again["disks"][0]["stored"], MIB)
        self.assertEqual(self.restored(taken["name"], key="writer"), image.read_bytes())
        self.stillpoint("verify", key="writer")
        self.stillpoint("protect", taken["name"], key="writer")
        self.assertEqual(list((self.path / "locks").glob("*-*")), [], "a lease is left")

    def test_nothing_is_deleted(self):
        taken = self.backup("db2", self.disk("second"), key="writer")
        kept = self.backup("db2", self.disk("second"), key="writer")
        self.stillpoint("protect", kept["name"], key="writer")
        before = self.objects()
        for verb in (["delete", taken["name"]], ["prune", "--keep-last", "1"], ["unprotect", kept["name"]]):
            with self.subTest(verb):
                done = self.stillpoint(*verb, key="writer", code=3)
                self.assertIn("the repository is open for adding only", done.stderr)
        self.assertEqual(self.objects(), before)

    def test_an_intruder_deletes_nothing(self):
        taken = self.backup("db3", self.disk("third"), key="writer")
        before = self.objects()
        index = next(name for name in before if name.startswith("index/"))
        pack = next(name for name in before if name.startswith("packs/"))
        doom = json.dumps({"format": 1, "packs": [pack[-32:]]})
        lease = "locks/shared-" + 32 * "0" + ".0"
        (self.path / lease).write_bytes(b"somebody's")
        yesterday, day = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + shift)) for shift in (-86400, 86400))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with Channel(self.sshd, self.path) as intruder:
            # A name that was begun is not ours before it is there.
            intruder.tell("write", object=900, name=lease)
            for name in (*before, "tmp/x", lease):
                self.assertIn("error", intruder.ask("remove", name=name), name)
            for name in (
                pack, index, "config", f"manifests/{taken['name'].replace('@', '/')}",  # they are there already
                "doomed/" + 32 * "0", "waits/" + 32 * "0", "keys/" + 32 * "0", "features/incompat.x", "reserve",
                "locks/exclusive-" + 32 * "0" + ".0",
                f"manifests/db3/{day}", f"manifests/db3/{yesterday}", f"manifests/other/{now}", "packs/ab", "manifests/db3/2020-01-01T00:00:00Z", "manifests/db3/soon", "manifests/x",
            ):
                self.assertIn("error", intruder.put(name, doom.encode()), name)
            self.assertIn("error", intruder.ask("drop-unfinished", lease=32 * "0"))
        self.assertEqual(self.objects(), before)
        self.assertEqual((self.path / lease).read_bytes(), b"somebody's")
        (self.path / lease).unlink()

    def test_no_name_leads_out_of_the_repository(self):
        self.backup("db4", self.disk("fourth"), key="writer")
        (self.path / "trees").mkdir(exist_ok=True)
        (self.path / "trees/link").symlink_to("/etc")
        for name in ("trees/link/hostname", "trees/x", "../escaped", "packs/../../escaped", "/etc/passwd", "packs//x", "", "packs/./x", "packs/a\0b"):
            for what in ("remove", "exists", "open", "write"):
                with Channel(self.sshd, self.path) as intruder:
                    with self.assertRaises((struct.error, AssertionError, BrokenPipeError)):
                        # A client of ours never asks that: the conversation is over.
                        if what == "write":
                            intruder.put(name)
                        else:
                            intruder.ask(what, name=name, object=1)
        for lock in ("exclusive-" + 32 * "0" + ".0", "shared-" + 32 * "0" + ".0", "../x"):
            with Channel(self.sshd, self.path) as intruder:
                with self.assertRaises((struct.error, AssertionError, BrokenPipeError)):
                    intruder.ask("lock", name=lock, object=1)
        self.assertFalse((self.path.parent / "escaped").exists())
        self.assertEqual(list((self.path / "locks").glob("*-0*")), [])

    def test_prune_by_who_may_does_not_believe_what_an_intruder_stored(self):
        """A pack of his own that claims to hold a chunk is no reason to give up the chunk."""
        image = self.disk("fifth", 3 * MIB)
        taken = self.backup("db5", image, key="writer")
        before = set(self.objects())
        # Stored again while the first is out of sight, then made worthless: right ids and lengths, other bytes.
        pack = next(self.path / name for name in before if name.startswith("packs/"))
        packs = [self.path / name for name in before if name.startswith("packs/")]
        aside = self.scratch / "aside"
        aside.mkdir()
        for number, pack in enumerate(packs):
            pack.rename(aside / str(number))
        self.backup("db6", image, key="writer")
        forged = [path for path in (self.path / "packs").rglob("*") if path.is_file()]
        for path in forged:
            path.chmod(0o600)
            content = bytearray(path.read_bytes())
            content[4096 : 4096 + 64] = bytes(64)
            path.write_bytes(content)
        for number, pack in enumerate(packs):
            (aside / str(number)).rename(pack)
            os.utime(pack, (1, 1))
        for path in forged:
            os.utime(path, (1, 1))
        self.stillpoint("prune", "--keep-last", "1", url=str(self.path))
        self.assertEqual(self.restored(taken["name"]), image.read_bytes())


def main():
    global PROGRAM
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unwind_on_signals()
    with scratch_directory() as scratch:
        path = scratch / "repository"
        commands = {"admin": f"{PROGRAM} store {path}", "writer": f"{PROGRAM} store --append-only --domain 'db*' {path}"}
        with Sshd(scratch, commands) as sshd:
            Remote.scratch, Remote.sshd, Remote.path = scratch, sshd, path
            made = subprocess.run(
                [PROGRAM, "init"], timeout=TIME_LIMIT, check=False, capture_output=True, text=True,
                env={"PATH": os.environ["PATH"], "STILLPOINT_RSH": sshd.rsh("admin"), "STILLPOINT_REPOSITORY": Remote.url()},
            )
            assert made.returncode == 0, made
            unittest.main(verbosity=2)


main()
