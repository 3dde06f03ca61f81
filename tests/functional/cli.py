#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The companion's command line on real images and repositories: results, messages, exit codes. No guest is needed.

cli.py STILLPOINT
"""

import contextlib
import hashlib
import json
import os
import pathlib
import pty
import re
import shutil
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.documents import reseal  # noqa: E402
from support.scratch import scratch_directory, run, wait_until  # noqa: E402

PROGRAM = None
MIB = 1 << 20
TIME_LIMIT = 120


def stillpoint(*arguments, env=None, text=True, **options):
    """Runs the companion with an environment and a configuration of its own, to whatever end."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(env or {})}
    return run(
        [PROGRAM, *arguments], TIME_LIMIT, check=False, env=environment, text=text, **options
    )


def make_files(root):
    """A small tree with everything that a copy could lose."""
    (root / "etc").mkdir()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")
    os.utime(root / "etc/hosts", ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    (root / "etc/hosts").chmod(0o640)
    (root / "etc/link").symlink_to("hosts")
    (root / "config").symlink_to("/etc")
    (root / "escape").symlink_to("../../../../../../etc")
    (root / "loop").symlink_to("loop")
    (root / "srv/deep/er").mkdir(parents=True)
    (root / "srv/deep/er/random").write_bytes(hashlib.shake_256(b"cli").digest(3 * MIB + 17))
    (root / "srv/deep/absolute").symlink_to("/etc/hosts")
    os.link(root / "srv/deep/er/random", root / "srv/deep/again")
    (root / "srv/name with \x1b[31m").write_text("odd\n", encoding="ascii")
    (root / "srv/empty").touch()
    with open(root / "srv/sparse", "wb") as sparse:
        sparse.truncate(5 * MIB)
        sparse.seek(4 * MIB)
        sparse.write(b"end")


class World:
    """One repository with one still point of two images, made once."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.repository = scratch / "repository"
        self.files = scratch / "files"
        self.files.mkdir()
        make_files(self.files)
        self.raw = scratch / "disk.raw"
        run(["truncate", "-s", "48M", self.raw], 10)
        run(["mke2fs", "-q", "-t", "ext4", "-L", "data", "-d", self.files, self.raw], 60)
        # A partition at 1 MiB of a qcow2 disk: the file system is vdb1.
        whole = scratch / "whole.raw"
        run(["truncate", "-s", "34M", whole], 10)
        run(["sfdisk", "-q", whole], 10, input="2048,65536,L\n")
        part = scratch / "part.raw"
        run(["truncate", "-s", "32M", part], 10)
        run(["mke2fs", "-q", "-t", "ext4", "-d", self.files / "etc", part], 60)
        run(["dd", f"if={part}", f"of={whole}", "bs=1M", "seek=1", "conv=notrunc", "status=none"], 30)
        self.qcow2 = scratch / "disk.qcow2"
        run(["qemu-img", "convert", "-O", "qcow2", whole, self.qcow2], 60)
        self.whole = whole
        self.env = {"STILLPOINT_REPOSITORY": str(self.repository)}
        made = stillpoint("init", "--json", env=self.env)
        assert made.returncode == 0, made
        self.made = json.loads(made.stdout)
        taken = stillpoint(
            "backup", "img", "--disk-image", f"vda={self.raw}", "--disk-image", f"vdb={self.qcow2},format=qcow2",
            "--json", env=self.env,
        )
        assert taken.returncode == 0, taken
        self.manifest = json.loads(taken.stdout)
        self.name = self.manifest["name"]


class CommandLine(unittest.TestCase):
    """What needs no repository."""

    def fails(self, code, *arguments, says="", env=None):
        """The call ends with that code and one clear line, in words and as JSON."""
        done = stillpoint(*arguments, env=env)
        self.assertEqual(done.returncode, code, done)
        self.assertEqual(done.stdout, "")
        lines = done.stderr.splitlines()
        self.assertTrue(lines[0].startswith("stillpoint: "), lines)
        self.assertLessEqual(len(lines), 2, lines)
        for hint in lines[1:]:
            self.assertTrue(hint.startswith("  "), lines)
        self.assertIn(says, done.stderr)
        as_json = stillpoint(*arguments, "--json", env=env)
        self.assertEqual(as_json.returncode, code, as_json)
        error = json.loads(as_json.stdout)["error"]
        self.assertEqual(error["code"], code)
        self.assertIn(error["message"].split("\n")[0][:20], as_json.stderr)
        return done

    def test_usage_errors_say_what_is_wrong(self):
        self.fails(2, says="a verb is missing")
        self.fails(2, "bakcup", "web1", says="there is no verb 'bakcup'")
        self.fails(2, "show", says="NAME")
        self.fails(2, "list", "a", "b", says="'b' is not expected here")
        self.fails(2, "list", "--frob", says="--frob")
        self.fails(2, "restore", "x", "--disk", "vda", "--to", "f", "--format", "vmdk", says="vmdk")
        volumes = ("restore", "x", "--to-volume-group", "vg")
        self.fails(2, *volumes, says="where the domain's definition goes is not said")
        self.fails(2, *volumes, "--disk", "vda", "--to", "f", says="one disk goes to one place")
        self.fails(2, *volumes, "--to", "d", "--in-place", "--overwrite", says="made anew")
        self.fails(2, "restore", "x", "--to", "d", "--thin-pool", "p", says="a pool of a volume group")
        self.fails(2, "restore", "x", "--to-rbd", "p", "--in-place", "--overwrite", says="has places already")
        self.fails(2, "restore", "x", "--to", "d", "--ceph-user", "u", says="nothing goes there")
        self.fails(2, "files", "mv", "x", says="stillpoint files --help")
        self.fails(2, "list", says="no repository is named")
        self.fails(2, "init", "--chunk-size", "lots", says="'lots' is not a size")

    def test_help_and_version(self):
        done = stillpoint("--help")
        self.assertEqual(done.returncode, 0)
        for verb in ("init", "backup", "list", "show", "restore", "replicate", "dump", "files", "verify", "prune", "delete", "protect", "drill"):
            self.assertIn(verb, done.stdout)
            own = stillpoint(verb, "--help")
            self.assertEqual(own.returncode, 0, verb)
            self.assertIn("Usage: stillpoint " + verb, own.stdout)
        self.assertNotIn("thaw-guard", done.stdout)
        self.assertRegex(stillpoint("--version").stdout, r"^stillpoint \d+\.\d+\.\d+\n$")

    def test_the_manual_names_every_option_and_code(self):
        manual = pathlib.Path(__file__).resolve().parents[2] / "docs/man/stillpoint.1"
        words = manual.read_text(encoding="utf-8").replace("\\-", "-")
        for verb in (None, "init", "backup", "list", "show", "restore", "replicate", "boot", "dump", "files", "verify", "prune", "key", "drill"):
            for line in stillpoint(*([verb] if verb else []), "--help").stdout.splitlines():
                for word in line.replace(",", " ").split():
                    if word.startswith("--"):
                        self.assertIn(word, words, f"of {verb}")
        done = run(["man", "--warnings", "-l", manual], 30, env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100"})
        self.assertEqual(done.stderr, "")

    def test_repositories_that_are_none(self):
        with scratch_directory() as scratch:
            self.fails(3, "list", "-r", scratch / "missing", says="there is no repository at")
            (scratch / "other").mkdir()
            (scratch / "other/file").touch()
            self.fails(3, "list", "-r", scratch / "other", says="is not a repository")
            self.fails(3, "init", "-r", scratch / "other", says="is not empty")
            self.fails(2, "init", "-r", scratch / "new", "--chunk-size", "100K")
            self.assertFalse((scratch / "new").exists())

    def test_a_wrong_configuration_is_refused(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
            conf.write("[repository]\npath=/x\n")
            conf.flush()
            self.fails(3, "list", "--config", conf.name, says="group [repository] has no key 'path'")
        self.fails(3, "list", "--config", "/nonexistent.conf", says="/nonexistent.conf")

    def test_unreachable_libvirt(self):
        with scratch_directory() as scratch:
            self.assertEqual(stillpoint("init", "-r", scratch / "r").returncode, 0)
            uri = "qemu+unix:///system?socket=/nonexistent"
            self.fails(5, "backup", "web1", "-r", scratch / "r", "--connect", uri)
            self.assertEqual(stillpoint("list", "-r", scratch / "r", "--json").stdout.strip(), "[]")


class OnContent(unittest.TestCase):
    """What works on a still point."""

    @classmethod
    def setUpClass(cls):
        cls.context = scratch_directory()
        cls.world = World(cls.context.__enter__())

    @classmethod
    def tearDownClass(cls):
        cls.context.__exit__(None, None, None)

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=self.world.scratch))

    def call(self, *arguments, **options):
        return stillpoint(*arguments, env=self.world.env, **options)

    def good(self, *arguments, **options):
        done = self.call(*arguments, **options)
        self.assertEqual(done.returncode, 0, done)
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.good(*arguments, "--json"))

    def fails(self, code, *arguments, says=""):
        done = self.call(*arguments)
        self.assertEqual(done.returncode, code, done)
        self.assertIn(says, done.stderr)
        return done

    def test_list_and_show(self):
        rows = self.json("list")
        self.assertEqual([row["name"] for row in rows], [self.world.name])
        self.assertEqual(rows[0]["grade"], "crash")
        self.assertEqual(rows[0]["disk_bytes"], (48 + 34) * MIB)
        self.assertEqual(self.json("list", "img"), rows)
        table = self.good("list")
        self.assertIn(self.world.name, table)
        self.assertIn("86.0 MB", table)
        self.assertEqual(self.json("show", "img"), self.world.manifest)
        self.assertEqual(self.json("show", self.world.name), self.world.manifest)
        text = self.good("show", "img@latest")
        for word in (self.world.name, "crash", "vda", "vdb1", str(self.world.raw)):
            self.assertIn(word, text)
        self.fails(4, "list", "web2", says="web2")
        self.fails(4, "show", "img@2020-01-01T00:00:00Z", says="img@2020-01-01T00:00:00Z")
        self.fails(4, "show", "web2")
        self.fails(4, "show", "img@yesterday")

    def test_restore_streams_a_disk(self):
        for disk, whole in (("vda", self.world.raw), ("vdb", self.world.whole)):
            command = [PROGRAM, "restore", self.world.name, "--disk", disk, "--to", "-"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=self.world.env) as program:
                got = program.stdout.read()
            self.assertEqual(program.returncode, 0)
            self.assertTrue(got == whole.read_bytes(), disk)
            # A reader that has enough is no success, and no crash.
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.world.env) as program:
                program.stdout.read(1000)
                program.stdout.close()
                self.assertIn(b"standard output", program.stderr.read())
            self.assertGreater(program.returncode, 0)
        self.fails(2, "restore", self.world.name, "--disk", "vda", "--to", "-", "--format", "qcow2", says="stream")
        self.fails(2, "restore", self.world.name, "--disk", "vda", "--to", "-", "--json", says="standard output")

    def test_restore_gives_the_disk_back(self):
        target = self.directory / "out.raw"
        done = self.json("restore", "img", "--disk", "vda", "--to", target)
        self.assertEqual((done["format"], done["bytes"]), ("raw", 48 * MIB))
        self.assertEqual(target.read_bytes(), self.world.raw.read_bytes())
        self.assertLess(target.stat().st_blocks * 512, 20 * MIB)
        self.fails(2, "restore", "img", "--disk", "vda", "--to", target, says="exists")
        self.good("restore", "img", "--disk", "vda", "--to", target, "--overwrite")
        qcow2 = self.directory / "out.qcow2"
        self.assertEqual(self.json("restore", "img", "--disk", "vdb", "--to", qcow2)["format"], "qcow2")
        run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", qcow2, self.world.whole], 60)
        self.fails(4, "restore", "img", "--disk", "vdc", "--to", self.directory / "x", says="its disks are vda, vdb")
        self.assertFalse((self.directory / "x").exists())

    def test_restore_of_all_disks(self):
        target = self.directory / "all"
        done = self.json("restore", "img", "--to", target)
        files = {disk["disk"]: pathlib.Path(disk["to"]) for disk in done["disks"]}
        self.assertEqual(files, {"vda": target / "img-vda.raw", "vdb": target / "img-vdb.qcow2"})
        self.assertEqual(files["vda"].read_bytes(), self.world.raw.read_bytes())
        run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", files["vdb"], self.world.whole], 60)
        self.assertIsNone(done["definition"])
        self.fails(2, "restore", "img", "--to", target, says="is there already")
        self.assertIn("restored vdb of", self.good("restore", "img", "--to", target, "--overwrite", "--name", "other"))
        self.assertTrue((target / "other-vda.raw").exists())
        for arguments, says in (
            ((), "where to restore it"), (("--to", "-"), "only one disk"), (("--to", "x", "--format", "raw"), "for one disk"),
            (("--in-place",), "--overwrite"), (("--in-place", "--overwrite", "--to", "x"), "without --disk"),
            (("--to", "x", "--define"), "without a domain"), (("--to", "x", "--name", "a/b"), "no domain's name"),
            (("--to", "x", "--disk", "vda", "--define"), "whole domain"), (("--disk", "vda"), "name a file"),
        ):
            with self.subTest(arguments):
                self.fails(2, "restore", "img", *arguments, says=says)
        self.fails(2, "restore", "img", "--in-place", "--overwrite", says="which somebody may use")
        # Nothing has its name before all can have theirs.
        half = self.directory / "half"
        half.mkdir()
        (half / "img-vdb.qcow2").mkdir()
        self.fails(2, "restore", "img", "--to", half, "--overwrite")
        self.assertEqual([path.name for path in half.iterdir()], ["img-vdb.qcow2"])

    def test_a_full_target_gets_no_partial_file(self):
        small = self.directory / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", small], check=False).returncode:
            self.skipTest("no file system can be mounted here")
        try:
            self.fails(8, "restore", "img", "--disk", "vda", "--to", small / "out.raw")
            self.assertEqual(list(small.iterdir()), [])
            self.fails(8, "files", "cp", "img:vda:/srv", small / "srv")
            self.assertEqual(list(small.iterdir()), [])
            self.fails(8, "files", "cp", "img:vda:/srv/deep/again", small / "one")
            self.assertEqual(list(small.iterdir()), [])
        finally:
            subprocess.run(["umount", small], check=True)
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, "list", "-r", self.world.repository], stdout=full, check=False, timeout=60)
        self.assertEqual(done.returncode, 8)

    def test_dumps_of_an_image(self):
        self.assertEqual(self.json("dump", "img"), [])
        self.assertEqual(self.good("dump", "img"), "")
        self.fails(4, "dump", "img", "app", "--to", self.directory / "d", says="no dumps at all")
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_find(self):
        found = set(self.good("files", "find", "img:vda:/srv").splitlines())
        expected = {"/srv", "/srv/deep", "/srv/deep/er", "/srv/deep/er/random", "/srv/deep/absolute", "/srv/deep/again", "/srv/empty", "/srv/sparse"}
        self.assertEqual(expected - found, set())
        self.assertNotIn("\x1b", "".join(found))
        self.assertEqual(self.good("files", "find", "img:vda:/", "--name", "hos*"), "/etc/hosts\n")
        self.assertEqual(self.good("files", "find", "img:vdb1:/", "--name", "hosts"), "/hosts\n")
        rows = self.json("files", "find", "img:vda:/etc/", "--name", "*")
        self.assertEqual({row["name"] for row in rows}, {"/etc", "/etc/hosts", "/etc/link"})
        self.assertEqual(self.json("files", "find", "img:vda:/etc", "--name", "none"), [])
        self.fails(2, "files", "find", "img", says="names no directory")
        self.fails(4, "files", "find", "img:vda:/nowhere")

    def test_file_systems_are_listed(self):
        found = {row["name"]: row for row in self.json("files", "ls", "img")}
        self.assertEqual(set(found), {"vda", "vdb1"})
        self.assertEqual(found["vda"]["label"], "data")
        self.assertIn("vdb1", self.good("files", "ls", self.world.name))

    def test_ls(self):
        rows = {row["name"]: row for row in self.json("files", "ls", f"{self.world.name}:vda:/etc")}
        self.assertEqual(set(rows), {"hosts", "link"})
        self.assertEqual(
            [rows["hosts"][key] for key in ("type", "mode", "size")], ["file", "0640", 20]
        )
        self.assertEqual(rows["link"]["target"], "hosts")
        text = self.good("files", "ls", "img:vda:/etc")
        self.assertRegex(text, r"-rw-r----- +0:0 +20 +2020-09-13T12:26:40Z +hosts\n")
        self.assertIn("link -> hosts", text)
        self.assertIn(r"name with \x1b[31m", self.good("files", "ls", "img:vda:/srv"))
        self.assertEqual(set(r["name"] for r in self.json("files", "ls", "img:vdb1:/")), {"hosts", "link", "lost+found"})
        self.assertEqual(self.json("files", "ls", "img:vda:/etc/hosts")[0]["size"], 20)
        # A link is shown as itself, and followed on the way and before a slash.
        self.assertEqual(self.json("files", "ls", "img:vda:/config")[0]["type"], "symlink")
        self.assertEqual(set(r["name"] for r in self.json("files", "ls", "img:vda:/config/")), {"hosts", "link"})
        self.assertEqual(self.json("files", "ls", "img:vda:/srv/../config/hosts")[0]["size"], 20)
        self.fails(4, "files", "ls", "img:vda:/nothing/here", says="/nothing/here")
        self.fails(4, "files", "ls", "img:vda:/loop/x", says="symbolic links")
        self.fails(4, "files", "ls", "img:vdc:/", says="vda, vdb1")
        self.fails(4, "files", "ls", "img:/etc", says="vda, vdb1")
        self.fails(2, "files", "ls", "img:etc")

    def test_cat(self):
        self.assertEqual(self.good("files", "cat", "img:vda:/etc/link"), "127.0.0.1 localhost\n")
        self.assertEqual(self.good("files", "cat", "img:vda:/srv/deep/absolute"), "127.0.0.1 localhost\n")
        # A link that climbs out of its root ends at the root, as in the guest.
        self.assertEqual(self.good("files", "cat", "img:vda:/escape/hosts"), "127.0.0.1 localhost\n")
        for name in ("srv/deep/again", "srv/sparse", "srv/empty"):
            self.assertEqual(
                self.good("files", "cat", "img:vda:/" + name, text=False), (self.world.files / name).read_bytes()
            )
        self.fails(2, "files", "cat", "img:vda:/etc", says="is a directory")
        self.assertEqual(self.good("files", "cp", "img:vda:/etc/hosts", "-"), "127.0.0.1 localhost\n")

    def test_cp(self):
        done = self.json("files", "cp", "img:vda:/srv", self.directory / "copy")
        self.assertEqual(done["to"], str(self.directory / "copy"))
        run(["diff", "-r", "--no-dereference", self.world.files / "srv", self.directory / "copy"], 30)
        self.assertTrue((self.directory / "copy/deep/again").samefile(self.directory / "copy/deep/er/random"))
        self.assertLess((self.directory / "copy/sparse").stat().st_blocks * 512, MIB)
        # Into a directory, under its own name; metadata kept; a link stays a link.
        self.good("files", "cp", "img:vda:/etc/hosts", self.directory)
        status = (self.directory / "hosts").stat()
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o640)
        self.assertEqual(status.st_mtime_ns, 1_600_000_000_000_000_000)
        self.good("files", "cp", "img:vda:/config", self.directory / "as-link")
        self.assertEqual(os.readlink(self.directory / "as-link"), "/etc")
        self.good("files", "cp", "img:vdb1:/", self.directory / "root")
        self.assertTrue((self.directory / "root/hosts").exists())
        before = sorted(self.directory.iterdir())
        self.assertEqual([path.name for path in before], ["as-link", "copy", "hosts", "root"])
        self.fails(2, "files", "cp", "img:vda:/etc/hosts", self.directory, says="exists")
        self.fails(2, "files", "cp", "img:vda:/", self.directory, says="no name")
        self.fails(4, "files", "cp", "img:vda:/nothing", self.directory)
        self.assertEqual(sorted(self.directory.iterdir()), before)

    def test_cp_leaves_files_out(self):
        self.good("files", "cp", "--include", "/hosts", "--exclude", "*", "img:vda:/etc", self.directory / "some")
        self.assertEqual(os.listdir(self.directory / "some"), ["hosts"])
        # The other way round the first one has decided already.
        self.good("files", "cp", "img:vda:/etc", self.directory / "none", "--exclude=*", "--include=hosts")
        self.assertEqual(os.listdir(self.directory / "none"), [])
        (self.directory / "patterns").write_text("# comment\ndeep/\n+ e*\n/*\n", encoding="ascii")
        self.good("files", "cp", "img:vda:/srv", self.directory / "srv", "--exclude-from", self.directory / "patterns")
        self.assertEqual(os.listdir(self.directory / "srv"), ["empty"])
        self.fails(2, "files", "cp", "img:vda:/srv", self.directory / "x", "--exclude-from", "/nowhere", says="/nowhere")
        self.fails(2, "files", "ls", "img:vda:/srv", "--exclude", "x")

    def test_options_stand_before_and_after_the_verb(self):
        self.assertEqual(json.loads(self.good("--json", "list")), self.json("list"))
        conf = self.directory / "stillpoint.conf"
        conf.write_text(f"[repository]\nurl={self.world.repository}\n", encoding="utf-8")
        done = stillpoint("--config", conf, "list", "--json")
        self.assertEqual(json.loads(done.stdout), self.json("list"))
        # The environment comes before the file, the option before both.
        self.assertEqual(stillpoint("--config", conf, "list", env={"STILLPOINT_REPOSITORY": "/x"}).returncode, 3)

    def test_progress_is_for_terminals(self):
        target = self.directory / "out.raw"
        command = f"{PROGRAM} restore img --disk vda --overwrite --to {target} -r {self.world.repository}"
        shown = run(["script", "-q", "-e", "-c", command, "/dev/null"], 60).stdout
        self.assertIn("vda", shown.split("restored")[0])
        for option in ("--no-progress", "--quiet", "--json"):
            shown = run(["script", "-q", "-e", "-c", f"{command} {option}", "/dev/null"], 60).stdout
            self.assertNotIn("\x1b", shown)


class OnAnotherRepository(unittest.TestCase):
    """What damages a repository, or takes its rights."""

    def setUp(self):
        self.context = scratch_directory()
        self.scratch = self.context.__enter__()
        self.addCleanup(self.context.__exit__, None, None, None)
        self.repository = self.scratch / "r"
        self.image = self.scratch / "disk.raw"
        run(["truncate", "-s", "8M", self.image], 10)
        run(["mke2fs", "-q", "-t", "ext4", self.image], 60)
        self.assertEqual(self.call("init").returncode, 0)

    def call(self, *arguments):
        return stillpoint(*arguments, "-r", self.repository)

    def backup(self):
        return self.call("backup", "img", "--disk-image", f"vda={self.image}")

    def test_a_newer_format_is_refused(self):
        reseal(self.repository / "config", lambda config: config.update(format=99))
        done = self.call("list")
        self.assertEqual(done.returncode, 3, done)
        self.assertIn("newer format", done.stderr)

    def test_a_single_file_system_needs_no_name(self):
        self.assertEqual(self.backup().returncode, 0)
        self.assertIn("lost+found", self.call("files", "ls", "img:/").stdout)

    def test_trees_of_several_file_systems_without_what_is_excluded(self):
        files = self.scratch / "files"
        files.mkdir()
        make_files(files)
        other = self.scratch / "other.raw"
        for image in (self.image, other):
            run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", files, image, "24M"], 60)
        disks = ["--disk-image", f"vda={self.image}", "--disk-image", f"vdb={other}"]
        patterns = ["--include", "/srv/deep/", "--exclude", "/srv/*", "--exclude", "hosts"]
        for number in range(2):
            done = self.call("backup", "img", *disks, *patterns, "--json")
            self.assertEqual(done.returncode, 0, done)
            self.assertIn("--exclude", " ".join(json.loads(done.stdout)["warnings"]))
            trees = json.loads(done.stdout)["trees"]
            self.assertEqual([tree["disk"] for tree in trees], ["vda", "vdb"])
            self.assertEqual([tree["files_written"] for tree in trees], [0, 0] if number else [1, 1])
            for tree in trees:
                path = self.repository / tree["path"]
                self.assertEqual(sorted(os.listdir(path)), ["config", "escape", "etc", "loop", "lost+found", "srv"])
                self.assertEqual(os.listdir(path / "etc"), ["link"])
                self.assertEqual(os.listdir(path / "srv"), ["deep"])
                self.assertEqual((path / "srv/deep/again").stat().st_nlink, 2 * (number + 1))
        done = self.call("backup", "img", *disks, "--no-trees", "--exclude", "x")
        self.assertEqual(done.returncode, 2, done)

    def test_a_damaged_manifest_hides_no_other(self):
        self.assertEqual(self.backup().returncode, 0)
        time.sleep(1.1)
        self.assertEqual(self.backup().returncode, 0)
        names = [row["name"] for row in json.loads(self.call("list", "--json").stdout)]
        manifests = sorted(p for p in self.repository.rglob("*") if p.is_file() and names[0].split("@")[1] in p.name)
        self.assertTrue(manifests)
        for path in manifests:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-20])
        done = self.call("list", "--json")
        self.assertEqual(done.returncode, 9, done)
        rows = json.loads(done.stdout)
        self.assertEqual([row["name"] for row in rows], names)
        self.assertIn("damaged", rows[0])
        self.assertNotIn("damaged", rows[1])
        self.assertEqual(self.call("show", names[0]).returncode, 9)
        self.assertEqual(self.call("show", names[1]).returncode, 0)

    def test_a_damaged_manifest_ends_no_backups(self):
        self.assertEqual(self.backup().returncode, 0)
        newest = next(path for path in (self.repository / "manifests").rglob("*") if path.is_file())
        newest.chmod(0o644)
        newest.write_bytes(newest.read_bytes()[:-20])
        time.sleep(1.1)
        done = self.backup()
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("is no base", done.stderr)

    def test_two_hosts_that_back_up_one_domain_in_one_second(self):
        files = self.scratch / "files"
        files.mkdir()
        make_files(files)
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", files, self.image, "24M"], 60)
        command = [PROGRAM, "backup", "img", "--disk-image", f"vda={self.image}", "--json", "-r", self.repository]
        programs = []
        pauses = [self.scratch / f"pause{number}" for number in range(2)]
        for pause in pauses:
            pause.mkdir()
            (pause / "name").touch()
            program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       env={**os.environ, "STILLPOINT_TEST_PAUSE": str(pause)})
            self.enterContext(program)
            programs.append(program)
        for pause in pauses:
            wait_until(lambda: (pause / "name.reached").exists(), 30, "a name")
        for pause in pauses:
            (pause / "name.reached").unlink()
        manifests = []
        for program in programs:
            output, errors = program.communicate(timeout=60)
            self.assertEqual(program.returncode, 0, errors)
            manifests.append(json.loads(output))
        names = {manifest["name"] for manifest in manifests}
        self.assertEqual({row["name"] for row in json.loads(self.call("list", "--json").stdout)}, names)
        self.assertEqual(len(names), 2)
        for manifest in manifests:
            place = self.repository / manifest["trees"][0]["path"]
            self.assertTrue((place / "etc").is_dir(), place)
            self.assertIn(manifest["name"].split("@")[1], str(place))

    def test_an_image_that_is_written_to(self):
        busy = self.scratch / "busy.raw"
        run(["dd", "if=/dev/urandom", f"of={busy}", "bs=1M", "count=8", "status=none"], 60)
        command = [PROGRAM, "backup", "busy", "--disk-image", f"vda={busy}", "-r", self.repository]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
            while program.poll() is None:
                os.utime(busy)
            errors = program.stderr.read()
        self.assertEqual(program.returncode, 7, errors)
        self.assertIn("was written to while it was read", errors)
        self.assertEqual(json.loads(self.call("list", "--json").stdout), [])

    def test_a_new_repository_is_its_owners_alone(self):
        self.assertEqual(self.repository.stat().st_mode & 0o777, 0o700)

    def test_a_read_only_repository_can_be_read(self):
        self.assertEqual(self.backup().returncode, 0)
        if subprocess.run(["mount", "--bind", self.repository, self.repository], check=False).returncode:
            self.skipTest("nothing can be mounted here")
        try:
            run(["mount", "-o", "remount,ro,bind", self.repository], 10)
            done = self.backup()
            self.assertEqual(done.returncode, 3, done)
            self.assertIn("read-write", done.stderr)
            self.assertEqual(self.call("list").returncode, 0)
            self.assertEqual(self.call("restore", "img", "--disk", "vda", "--to", self.scratch / "o").returncode, 0)
        finally:
            subprocess.run(["umount", self.repository], check=True)

    def still_points(self):
        return [row["name"] for row in json.loads(self.call("list", "--json").stdout)]

    def take(self, content):
        """A still point of a disk that has this content in it."""
        image = self.scratch / "changing.raw"
        image.write_bytes(hashlib.shake_256(content.encode()).digest(6 * MIB) + hashlib.shake_256(b"same").digest(6 * MIB))
        done = self.call("backup", "db", "--disk-image", f"vda={image}", "--json")
        self.assertEqual(done.returncode, 0, done)
        time.sleep(1.1)
        return json.loads(done.stdout)["name"], hashlib.sha256(image.read_bytes()).hexdigest()

    def restored(self, name):
        target = self.scratch / "restored.raw"
        done = self.call("restore", name, "--disk", "vda", "--to", target, "--overwrite")
        self.assertEqual(done.returncode, 0, done)
        return hashlib.sha256(target.read_bytes()).hexdigest()

    def size_of(self, directory):
        with contextlib.suppress(FileNotFoundError):
            return sum(path.stat().st_size for path in (self.repository / directory).rglob("*") if path.is_file())
        return 0

    def size(self):
        return self.size_of("packs")

    def test_verify_names_what_is_damaged_and_a_backup_heals_it(self):
        name, content = self.take("one")
        done = self.call("verify", "--read-data", "--json")
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(json.loads(done.stdout)["damaged"], [])
        self.assertGreater(json.loads(done.stdout)["chunks_read"], 40)
        self.assertIn("all is there", self.call("verify", "db").stdout)
        pack = next(path for path in (self.repository / "packs").rglob("*") if path.is_file())
        pack.chmod(0o644)
        with open(pack, "r+b") as file:
            file.seek(1 * MIB)
            file.write(b"rot")
        done = self.call("verify", "--read-data=100%", "--read-only")
        self.assertEqual(done.returncode, 9, done)
        self.assertFalse((self.repository / "quarantine").exists())
        done = self.call("verify", "--read-data", "--json")
        self.assertEqual(done.returncode, 9, done)
        self.assertEqual([entry["name"] for entry in json.loads(done.stdout)["damaged"]], [name])
        done = self.call("verify", name)
        self.assertEqual(done.returncode, 9, done)
        self.assertIn("disk vda: chunk ", done.stdout)
        self.assertEqual(self.call("restore", name, "--disk", "vda", "--to", self.scratch / "x").returncode, 9)
        self.take("one")
        self.assertEqual(self.call("verify", "--read-data").returncode, 0)
        self.assertEqual(self.restored(name), content)
        for wrong in ("--read-data=0", "--read-data=101%", "--read-data=all"):
            self.assertEqual(self.call("verify", wrong).returncode, 2)
        self.assertEqual(self.call("verify", "nobody").returncode, 4)

    def test_prune_keeps_what_the_rules_say_and_reclaims_the_rest(self):
        taken = [self.take(f"night {number}") for number in range(4)]
        names = [name for name, _ in taken]
        full = self.size()
        done = self.call("prune", "--keep-last", "2", "--dry-run", "--json")
        self.assertEqual(done.returncode, 0, done)
        plan = json.loads(done.stdout)
        self.assertEqual([row["name"] for row in plan["still_points"] if not row["kept_by"]], names[:2])
        self.assertEqual(self.still_points(), names)
        self.assertEqual(self.size(), full)
        self.assertEqual(self.call("protect", names[0]).returncode, 0)
        done = self.call("delete", names[0])
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("unprotect", done.stderr)
        done = self.call("prune", "--keep-last", "2")
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("protected", done.stdout)
        self.assertEqual(self.still_points(), [names[0], *names[2:]])
        self.assertEqual(self.call("unprotect", names[0]).returncode, 0)
        self.assertEqual(self.call("delete", names[0]).returncode, 0)
        done = self.call("prune", "--json")
        self.assertEqual(done.returncode, 0, done)
        self.assertGreater(json.loads(done.stdout)["reclaimed"]["packs_deleted"], 0)
        self.assertEqual(json.loads(done.stdout)["stray_trees_deleted"], 0)
        self.assertLess(self.size(), full - 11 * MIB)
        for name, content in taken[2:]:
            self.assertEqual(self.restored(name), content)
        self.assertEqual(self.call("verify", "--read-data").returncode, 0)
        self.assertEqual(self.call("index", "rebuild").returncode, 0)
        self.assertEqual(self.call("verify").returncode, 0)
        self.assertEqual(self.call("prune", "nobody", "--keep-last", "1").returncode, 4)
        self.assertEqual(self.call("prune", "db").returncode, 2)
        self.assertEqual(self.call("prune", "--keep-within", "soon").returncode, 2)
        self.assertEqual(self.call("delete", "db").returncode, 2)
        self.assertEqual(self.still_points(), names[2:])

    def test_an_encrypted_repository_needs_its_key(self):
        repository, key, image = self.scratch / "secret", self.scratch / "key", self.scratch / "text.raw"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        image.write_bytes(b"a secret that nobody may read\n" * 40000)

        def call(*arguments, **environment):
            return stillpoint(*arguments, "-r", repository, env=environment)

        done = call("init", "--encrypt", "--key-file", key, "--json")
        self.assertEqual(done.returncode, 0, done)
        self.assertTrue(json.loads(done.stdout)["encrypted"])
        with_key = {"STILLPOINT_KEY_FILE": str(key)}
        # Whoever gives a key is not talked out of encrypting.
        self.assertEqual(stillpoint("init", "-r", self.scratch / "plain", "--key-file", key).returncode, 2)
        self.assertEqual(stillpoint("list", "-r", self.repository, "--key-file", key).returncode, 3)
        self.assertEqual(call("backup", "img", "--disk-image", f"vda={image}", **with_key).returncode, 0)
        self.assertEqual(call("restore", "img", "--disk", "vda", "--to", self.scratch / "out", **with_key).returncode, 0)
        self.assertEqual((self.scratch / "out").read_bytes(), image.read_bytes())
        disk = self.scratch / "disk.raw"
        (self.scratch / "content").mkdir()
        (self.scratch / "content/note").write_text("what a file says", encoding="utf-8")
        run(["truncate", "-s", "8M", disk], 10)
        run(["mke2fs", "-q", "-t", "ext4", "-d", self.scratch / "content", disk], 60)
        self.assertEqual(call("backup", "fs", "--disk-image", f"vda={disk}", **with_key).returncode, 0)
        self.assertEqual(call("files", "cat", "fs:vda:/note", **with_key).stdout, "what a file says")
        self.assertIn("note", call("files", "ls", "fs:vda:/", **with_key).stdout)
        self.assertEqual(stillpoint("files", "ls", "fs:vda:/", "-r", repository, start_new_session=True).returncode, 3)
        # That of a configuration is for its own repository, and a passphrase comes before it.
        config = self.scratch / "stillpoint.conf"
        config.write_text(f"[repository]\nurl={repository}\nkey_file={key}\n", encoding="utf-8")
        self.assertEqual(stillpoint("list", "--config", config).returncode, 0)
        self.assertEqual(stillpoint("list", "--config", config, "-r", repository).returncode, 0)
        self.assertEqual(stillpoint("list", "--config", config, "-r", self.repository).returncode, 0)
        self.assertEqual(stillpoint("list", "--config", config, env={"STILLPOINT_PASSPHRASE": "wrong"}).returncode, 3)
        for path in repository.rglob("*"):
            if path.is_file():
                self.assertNotIn(b"secret that nobody", path.read_bytes())
                self.assertNotIn(str(image).encode(), path.read_bytes())
        for verb in (("list",), ("verify",), ("prune",), ("key", "list")):
            done = stillpoint(*verb, "-r", repository, start_new_session=True)
            self.assertEqual(done.returncode, 3, done)
            self.assertIn("encrypted", done.stderr)
        other = self.scratch / "other"
        other.write_bytes(os.urandom(64))
        done = call("list", "--key-file", other)
        self.assertEqual(done.returncode, 3, done)
        self.assertIn("opens none of the 1 keys", done.stderr)
        done = call("key", "add", "--label", "safe", **with_key, STILLPOINT_NEW_PASSPHRASE="correct horse")
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(call("list", STILLPOINT_PASSPHRASE="correct horse").returncode, 0)
        keys = json.loads(call("key", "list", "--json", **with_key).stdout)
        by_kind = {entry["kind"]: entry["id"] for entry in keys}
        self.assertEqual(set(by_kind), {"key-file", "passphrase"})
        self.assertEqual(call("key", "remove", by_kind["key-file"], STILLPOINT_PASSPHRASE="correct horse").returncode, 0)
        self.assertEqual(call("list", **with_key).returncode, 3)
        self.assertEqual(call("key", "remove", by_kind["passphrase"], STILLPOINT_PASSPHRASE="correct horse").returncode, 2)
        self.assertEqual(call("verify", "--read-data", STILLPOINT_PASSPHRASE="correct horse").returncode, 0)

    def prompted(self, repository, answer):
        """Exit code and words of a command that asks for a passphrase on a terminal; `answer(terminal, pid)` reacts."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(PROGRAM, [PROGRAM, "list", "-r", str(repository)], {"PATH": os.environ["PATH"]})
        words = b""
        with contextlib.suppress(OSError):  # EIO: it has ended
            while select.select([terminal], [], [], 30)[0]:
                words += os.read(terminal, 4096)
                if answer and words.endswith(b"Passphrase: "):
                    answer(terminal, pid)
                    answer = None
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), words.decode()

    def test_a_passphrase_is_asked_for_and_the_question_can_be_interrupted(self):
        repository = self.scratch / "secret"
        done = stillpoint("init", "--encrypt", "-r", repository, env={"STILLPOINT_PASSPHRASE": "correct horse"})
        self.assertEqual(done.returncode, 0, done)
        code, words = self.prompted(repository, lambda terminal, _: os.write(terminal, b"correct horse\n"))
        self.assertEqual(code, 0, words)
        self.assertNotIn("horse", words)
        code, words = self.prompted(repository, lambda terminal, _: os.write(terminal, b"wrong\n"))
        self.assertEqual(code, 3, words)
        for interrupt in (lambda terminal, _: os.write(terminal, b"\x03"), lambda _, pid: os.kill(pid, signal.SIGTERM)):
            begun = time.monotonic()
            code, words = self.prompted(repository, interrupt)
            self.assertEqual(code, 11, words)
            self.assertLess(time.monotonic() - begun, 20)

    def test_a_missing_image(self):
        done = self.call("backup", "img", "--disk-image", f"vda={self.scratch / 'none'}")
        self.assertEqual(done.returncode, 2, done)
        self.assertEqual(json.loads(self.call("list", "--json").stdout), [])

    def stopped(self, begun, *arguments):
        """Ends the call by two signals as soon as `begun` says so: exit code 11."""
        with subprocess.Popen(
            [PROGRAM, *arguments, "-r", self.repository],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]},
        ) as program:
            end = time.monotonic() + 60
            while time.monotonic() < end and program.poll() is None and not begun():
                time.sleep(0.005)
            program.send_signal(signal.SIGTERM)
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=60)
        self.assertEqual(program.returncode, 11, errors)

    def test_nothing_has_its_name_before_it_is_durable(self):
        image, trace = self.scratch / "image.raw", self.scratch / "trace"
        run(["dd", "if=/dev/urandom", f"of={image}", "bs=1M", "count=70", "status=none"], 60)
        calls = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=fsync,renameat2,unlink", "-o", trace, PROGRAM]
        run([*calls, "backup", "x", "--no-trees", "--disk-image", f"vda={image}", "-r", self.repository], TIME_LIMIT)
        renamed = [os.path.relpath(target, self.repository).split("/")[0] for *_, target in self.durable(trace)]
        # Two packs, the index that lists them, and the manifest after all that it relies on.
        self.assertGreaterEqual(renamed.count("packs"), 2)
        self.assertGreater(renamed.index("manifests"), max(at for at, kind in enumerate(renamed) if kind == "packs"))
        run([*calls, "restore", "x", "--disk", "vda", "--to", self.scratch / "out.raw", "-r", self.repository], TIME_LIMIT)
        self.assertIn(str(self.scratch / "out.raw"), [target for *_, target in self.durable(trace)])

    def durable(self, trace):
        """What was renamed: its content synced before, the directory after it."""
        synced, renamed, waiting = [], [], {}
        for at, call in enumerate(trace.read_text(encoding="utf-8").splitlines()):
            process = call.split()[0]
            if match := re.search(r" fsync\(\d+<(.*?)>( <unfinished|\) += 0)", call):
                waiting[process] = match[1]
            if process in waiting and re.search(r"fsync.*\) += 0", call):
                synced.append((at, process, waiting.pop(process)))
            if match := re.search(r'renameat2\(.*?"(.*?)", .*?"(.*?)", RENAME_NOREPLACE\) += 0', call):
                renamed.append((at, process, match[1], match[2]))
        for at, process, source, target in renamed:
            if os.path.relpath(target, self.repository).split("/")[0] in ("locks", "index"):
                continue  # a lease ends with its host's power, and this index is made anew from the packs
            self.assertIn(source, [path for when, _, path in synced if when < at])
            later = [path for when, who, path in synced if when > at and who == process]
            self.assertEqual(later[:1], [os.path.dirname(target)])
        return renamed

    def test_a_damaged_still_point_can_be_deleted(self):
        names = [self.take(text)[0] for text in ("one", "two")]
        manifest = self.repository / "manifests" / names[0].replace("@", "/")
        manifest.write_bytes(manifest.read_bytes()[:-10])
        self.assertEqual(self.call("list").returncode, 9)
        self.assertEqual(self.call("prune").returncode, 9)
        done = self.call("delete", names[0])
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(self.still_points(), names[1:])
        self.assertEqual(self.call("prune").returncode, 0)
        self.assertEqual(self.call("verify", "--read-data").returncode, 0)

    def test_nobody_else_reads_what_is_stored(self):
        self.repository.chmod(0o755)  # as of a directory that was there before
        self.take("secret")
        for path in self.repository.rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_a_limit_is_kept(self):
        image = self.scratch / "random.raw"
        run(["dd", "if=/dev/urandom", f"of={image}", "bs=1M", "count=12", "status=none"], 60)
        for rate in ("fast", "-1", "1.5"):
            self.assertEqual(self.call("backup", "slow", "--disk-image", f"vda={image}", "--limit", rate).returncode, 2)
        for verb in (("backup", "slow", "--no-trees", "--disk-image", f"vda={image}"),
                     ("restore", "slow", "--disk", "vda", "--to", self.scratch / "out.raw")):
            begun = time.monotonic()
            done = self.call(*verb, "--limit", "8M")
            self.assertEqual(done.returncode, 0, done)
            self.assertGreaterEqual(time.monotonic() - begun, 1.5)
        self.assertEqual((self.scratch / "out.raw").read_bytes(), image.read_bytes())
        # With its lease it begins to read; each chunk has to wait for minutes.
        leases = (self.repository / "locks").glob
        self.stopped(lambda: any(leases("shared-*")) and time.sleep(0.5) is None, "backup", "slow", "--no-trees", "--disk-image", f"vda={image}", "--limit", "1K")

    def test_compression_is_chosen(self):
        image = self.scratch / "text.raw"
        image.write_bytes(b"".join(b"%d of many\n" % n for n in range(1_000_000)))
        size = image.stat().st_size
        for level in ("fast", "-1", "0", "20", "1x"):
            done = self.call("backup", "text", "--disk-image", f"vda={image}", "--compression", level)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn("say none, or a level of zstd", done.stderr)
        key, config = self.scratch / "key", self.scratch / "stillpoint.conf"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        config.write_text("[backup]\ncompression=none\n", encoding="utf-8")
        stored = {}
        for level, options, encrypt in (
                ("none", ("--compression", "none"), ()), ("1", ("--compression", "1"), ()), ("19", ("--compression", "19"), ()),
                ("as usual", (), ()), ("as configured", ("--config", config), ()),
                ("encrypted", ("--compression", "none", "--key-file", key), ("--encrypt", "--key-file", key))):
            shutil.rmtree(self.repository)
            self.assertEqual(self.call("init", *encrypt).returncode, 0)
            known = encrypt[1:]
            done = self.call("backup", "text", "--no-trees", "--disk-image", f"vda={image}", *options, "--json")
            self.assertEqual(done.returncode, 0, done)
            stored[level] = json.loads(done.stdout)["disks"][0]["stored"]
            out = self.scratch / f"{level}.raw"
            self.assertEqual(self.call("restore", "text", "--disk", "vda", "--to", out, *known).returncode, 0)
            self.assertEqual(out.read_bytes(), image.read_bytes())
            # What is there already stays as it is, at whatever level.
            again = self.call("backup", "text", "--no-trees", "--disk-image", f"vda={image}", "--compression", "5", *known, "--json")
            self.assertEqual(json.loads(again.stdout)["disks"][0]["stored"], 0, again)
            self.assertEqual(self.call("verify", "--read-data", *known).returncode, 0)
        self.assertGreater(stored["none"], size)
        self.assertGreater(stored["encrypted"], size)
        self.assertEqual(stored["as configured"], stored["none"])
        self.assertLess(stored["1"], size // 2)
        self.assertLess(stored["19"], stored["1"])
        self.assertEqual(stored["as usual"], stored["1"])

    def test_a_signal_undoes(self):
        big = self.scratch / "big.raw"
        run(["dd", "if=/dev/urandom", f"of={big}", "bs=1M", "count=256", "status=none"], 60)

        def written():
            return self.size_of("packs") > MIB

        self.stopped(written, "backup", "big", "--disk-image", f"vda={big}")
        self.assertEqual(json.loads(self.call("list", "--json").stdout), [])
        kept = self.size_of("packs")
        done = self.call("backup", "big", "--disk-image", f"vda={big}", "--json")
        self.assertEqual(done.returncode, 0, done)
        # What the first one had stored is not stored again.
        self.assertGreater(kept, MIB)
        self.assertLessEqual(json.loads(done.stdout)["disks"][0]["stored"], 257 * MIB - kept)
        target = self.scratch / "target"
        target.mkdir()
        self.stopped(
            lambda: list(target.iterdir()), "restore", "big", "--disk", "vda", "--to", target / "out.raw"
        )
        self.assertEqual(list(target.iterdir()), [])


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main(verbosity=2)
