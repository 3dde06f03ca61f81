#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks served out of the repository, read by the NBD clients that operators have.

serve.py STILLPOINT PLUGIN
"""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.companion import first_document  # noqa: E402
from support.scratch import free_port, run, scratch_directory, unwind_on_signals  # noqa: E402

PROGRAM = PLUGIN = None
MIB = 1 << 20
TIME_LIMIT = 120


def make_image(path):
    """Data, holes, a last chunk that is not whole."""
    with open(path, "wb") as image:
        image.truncate(37 * MIB + 1024)
        image.write(hashlib.shake_256(b"serve").digest(5 * MIB))
        image.seek(20 * MIB + 512)
        image.write(b"text that compresses, " * 200000)
        image.seek(37 * MIB)
        image.write(b"e" * 1024)


class Serve(unittest.TestCase):
    scratch = image = name = None

    def stillpoint(self, *arguments, code=0, repository="repository", env=None):
        done = run(
            [PROGRAM, "--repository", self.scratch / repository, *arguments], TIME_LIMIT, check=False,
            env={"PATH": os.environ["PATH"], **(env or {})},
        )
        self.assertEqual(done.returncode, code, done)
        return done

    @contextlib.contextmanager
    def served(self, *arguments, repository="repository", env=None):
        """The uri, until the block ends; then nothing is left of the server."""
        with subprocess.Popen(
            [PROGRAM, "--repository", repository, "serve", *arguments, "--json"], stdout=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], **(env or {})}, cwd=self.scratch,
        ) as server:
            try:
                yield first_document(server.stdout)["uri"]
            finally:
                server.send_signal(signal.SIGINT)
                ended = server.wait(30)
        self.assertIn(ended, (0, 11))
        self.assertEqual(list((self.scratch / repository / "locks").glob("shared-*")), [], "a lease is left")

    def check(self, uri):
        """As nbdcopy, qemu-img and nbdinfo see it."""
        info = json.loads(run(["nbdinfo", "--json", uri], TIME_LIMIT).stdout)["exports"][0]
        self.assertEqual(info["export-size"], 37 * MIB + 1024)
        self.assertTrue(info["is_read_only"])
        self.assertTrue(info["can_multi_conn"])
        copy = self.scratch / "copy"
        run(["nbdcopy", uri, copy], TIME_LIMIT)
        self.assertEqual(copy.read_bytes(), self.image.read_bytes())
        copy.unlink()
        run(["qemu-img", "compare", "-f", "raw", "-F", "raw", self.image, uri], TIME_LIMIT)
        extents = json.loads(run(["nbdinfo", "--map", "--json", uri], TIME_LIMIT).stdout)
        self.assertEqual(sum(extent["length"] for extent in extents), 37 * MIB + 1024)
        hole = sum(extent["length"] for extent in extents if extent["type"] & 2)
        self.assertGreaterEqual(hole, 25 * MIB, "holes are not told")

    def test_by_socket(self):
        with self.served(self.name, "--disk", "vda", "--socket", "s") as uri:
            self.assertEqual(uri, f"nbd+unix:///?socket={self.scratch}/s")
            self.assertEqual((self.scratch / "s").stat().st_mode & 0o077 & 0o022, 0, "others may read the disk")
            self.check(uri)
            # A guest writes to an overlay, and reads back what it wrote and what it did not.
            overlay = self.scratch / "overlay.qcow2"
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", uri, "-F", "raw", overlay], TIME_LIMIT)
            run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "read -P 7 1M 64k", overlay], TIME_LIMIT)
            flat = self.scratch / "flat"
            run(["qemu-img", "convert", "-O", "raw", overlay, flat], TIME_LIMIT)
            expected = bytearray(self.image.read_bytes())
            expected[MIB : MIB + (64 << 10)] = b"\7" * (64 << 10)
            self.assertEqual(flat.read_bytes()[: len(expected)], bytes(expected))
        self.assertFalse((self.scratch / "s").exists())

    def test_by_port(self):
        port = free_port()
        with self.served("img@latest", "--tcp", str(port)) as uri:
            self.assertEqual(uri, f"nbd://127.0.0.1:{port}")
            self.check(uri)

    def test_encrypted(self):
        (self.scratch / "key").write_bytes(os.urandom(64))
        (self.scratch / "key").chmod(0o600)
        for repository, key, env in (
            ("by-file", ["--key-file", self.scratch / "key"], {}),
            ("by-passphrase", [], {"STILLPOINT_PASSPHRASE": "correct horse", "STILLPOINT_NEW_PASSPHRASE": "correct horse"}),
        ):
            with self.subTest(repository):
                self.stillpoint("init", "--encrypt", *key, repository=repository, env=env)
                self.stillpoint("backup", "img", "--disk-image", f"vda={self.image}", *key, repository=repository, env=env)
                with self.served("img", "--socket", "s2", *key, repository=repository, env=env) as uri:
                    self.check(uri)
                    words = pathlib.Path("/proc").glob("[0-9]*/cmdline")
                    for path in words:
                        with contextlib.suppress(OSError):
                            self.assertNotIn(b"correct horse", path.read_bytes())

    def test_nbdkit_itself(self):
        done = run(
            ["nbdkit", "-U", "-", PLUGIN, f"repository={self.scratch / 'repository'}", "name=img@latest", "disk=vda",
             "--run", f"nbdcopy \"$uri\" {self.scratch / 'by-nbdkit'}"], TIME_LIMIT, check=False,
        )
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual((self.scratch / "by-nbdkit").read_bytes(), self.image.read_bytes())
        for parameters, says in (
            (["name=x", "disk=vda"], "must be given"), (["frob=1"], "no parameter 'frob'"),
            ([f"repository={self.scratch / 'repository'}", "name=img", "disk=vdz"], "has no disk 'vdz'"),
            (["repository=/nowhere", "name=img", "disk=vda"], "no repository at /nowhere"),
        ):
            done = run(["nbdkit", "-U", "-", PLUGIN, *parameters, "--run", "true"], TIME_LIMIT, check=False)
            self.assertNotEqual(done.returncode, 0, parameters)
            self.assertIn(says, done.stderr)

    def test_what_is_wrong_is_said(self):
        for arguments, code, says in (
            ([self.name], 2, "where to serve it"), ([self.name, "--socket", "s", "--tcp", "1"], 2, "where to serve it"),
            ([self.name, "--tcp", "x"], 2, "'x' is no port"), ([self.name, "--tcp", "127.0.0.1:70000"], 2, "no port"),
            ([self.name, "--socket", str(self.image)], 2, "is there already"),
            ([self.name, "--socket", "x" * 200], 2, "longer than"), ([self.name, "--disk", "vdz", "--socket", "s"], 4, "its disks are vda"),
            (["nobody", "--socket", "s"], 4, "nobody"), ([self.name, "--tcp", "192.0.2.1:10809"], 5, "server has ended"),
        ):
            with self.subTest(arguments):
                self.assertIn(says, self.stillpoint("serve", *arguments, code=code).stderr)

    def test_a_damaged_chunk_is_an_error_and_no_data(self):
        self.stillpoint("init", repository="damaged")
        self.stillpoint("backup", "img", "--disk-image", f"vda={self.image}", repository="damaged")
        pack = next(path for path in (self.scratch / "damaged/packs").rglob("*") if path.is_file())
        pack.chmod(0o600)
        content = bytearray(pack.read_bytes())
        content[1 * MIB] ^= 1
        pack.write_bytes(content)
        with self.served("img", "--socket", "s3", repository="damaged") as uri:
            done = run(["nbdcopy", uri, self.scratch / "lost"], TIME_LIMIT, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("Input/output error", done.stderr)
            # The rest of it can be read.
            run(["qemu-io", "-r", "-f", "raw", "-c", "read 37M 1k", uri], TIME_LIMIT)


def main():
    global PROGRAM, PLUGIN
    PROGRAM, PLUGIN = (os.path.abspath(path) for path in sys.argv[1:3])
    del sys.argv[1:3]
    unwind_on_signals()
    with scratch_directory() as scratch:
        Serve.scratch, Serve.image = scratch, scratch / "image"
        make_image(Serve.image)
        environment = {"PATH": os.environ["PATH"], "STILLPOINT_REPOSITORY": str(scratch / "repository")}
        run([PROGRAM, "init"], TIME_LIMIT, env=environment)
        taken = run([PROGRAM, "backup", "img", "--disk-image", f"vda={Serve.image}", "--json"], TIME_LIMIT, env=environment)
        Serve.name = json.loads(taken.stdout)["name"]
        unittest.main(verbosity=2)


main()
