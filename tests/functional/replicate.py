#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Still points are replicated into the pools of two real clusters: by differences, interrupted, damaged, retained.

replicate.py STILLPOINT
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed  # noqa: E402
from support.companion import Calls  # noqa: E402
from support.documents import reseal  # noqa: E402
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

ROOT = None
NEAR = None
FAR = None
MIB = 1 << 20
CHUNK = 256 << 10
SIZE = 24 * MIB


def noise(name, length):
    """Bytes that do not compress."""
    return hashlib.shake_256(name.encode()).digest(length)


def digest(path):
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path, *places):
    """Noise, or zeros, at places of a file."""
    with open(path, "r+b") as out:
        for offset, length, name in places:
            out.seek(offset)
            out.write(noise(name, length) if name else bytes(length))


# A guest's image is open: whoever writes to it watches it.
HOLD = """\
import rados, rbd, sys
with rados.Rados(conffile=sys.argv[1], name="client.admin") as cluster:
    with cluster.open_ioctx("copies") as pool, rbd.Image(pool, sys.argv[2]) as image:
        print("open", flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def in_use(image):
    """Somebody has the image in the other cluster open."""
    command = ["/usr/bin/python3", "-c", HOLD, FAR.conf, image]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=FAR.environment) as holder:
        try:
            if holder.stdout.readline() != b"open\n":
                raise AssertionError(f"{image} cannot be opened")
            yield
        finally:
            holder.stdin.close()
            holder.wait(30)


class Replicate(Calls):
    """Four still points of one image; each test has replicas of its own."""

    @classmethod
    def setUpClass(cls):
        cls.good("init")
        image = ROOT / "vda"
        image.touch()
        os.truncate(image, SIZE)
        write(image, (0, 2 * MIB, "begin"), (9 * MIB + 4096, 5 * MIB, "middle"), (SIZE - MIB, MIB, "end"))
        cls.points = []
        for number in range(4):
            if number == 1:
                write(image, (CHUNK, 100, "small"), (10 * MIB, MIB, None), (20 * MIB, CHUNK, "new"))
            if number == 2:
                os.truncate(image, SIZE + 3 * MIB + 512)
                write(image, (SIZE + MIB, 4096, "grown"), (0, 10, "again"))
            if number == 3:
                os.truncate(image, SIZE - 2 * MIB)
                write(image, (9 * MIB, CHUNK, "shrunk"))
            copy = ROOT / f"vda.{number}"
            run(["cp", "--sparse=always", image, copy], 30)
            name = json.loads(cls.good("backup", "web", "--disk-image", f"vda={image}", "--no-trees", "--json"))["name"]
            cls.points.append((name, name.partition("@")[2], copy))
        # And two of two disks, the second of which never changes.
        disks = ("--disk-image", f"vda={image}", "--disk-image", f"vdb={ROOT / 'vda.0'}")
        cls.pairs = []
        for number in range(2):
            write(image, (CHUNK, 100, f"pair{number}"))
            cls.pairs.append(json.loads(cls.good("backup", "pair", *disks, "--no-trees", "--json"))["name"])

    @classmethod
    def environment(cls, **more):
        return {**os.environ, "CEPH_CONF": str(NEAR.conf), "STILLPOINT_REPOSITORY": str(ROOT / "repository"), "LC_ALL": "C.UTF-8", **more}

    def replicate(self, number, image, *arguments, code=0):
        """Into the other cluster; returns what is said of the disk."""
        done = self.call("replicate", self.points[number][0], f"rbd:copies@{FAR.conf}", "--name", image, "--json", *arguments)
        self.assertEqual(done.returncode, code, done)
        return json.loads(done.stdout)["disks"][0] if done.stdout else done

    def assert_has(self, image, *numbers):
        """Exactly these still points, each as it was."""
        spec = f"copies/{image}-vda"
        names = [row["name"] for row in json.loads(FAR.rbd("snap", "ls", "--format", "json", spec))]
        self.assertEqual(names, [self.points[number][1] for number in numbers])
        for number in numbers:
            self.assert_is(f"{spec}@{self.points[number][1]}", number)

    def assert_is(self, spec, number, name="exported"):
        copy = ROOT / name
        copy.unlink(missing_ok=True)
        FAR.rbd("export", "--no-progress", spec, copy)
        self.assertEqual(digest(copy), digest(self.points[number][2]), f"{spec}, still point {number}")

    @contextlib.contextmanager
    def paused(self, number, image, state):
        """A replication that stands still at that state, and is killed."""
        pauses = ROOT / f"pauses-{image}-{state}-{number}"
        pauses.mkdir()
        (pauses / state).touch()
        command = [self.program, "replicate", self.points[number][0], f"rbd:copies@{FAR.conf}", "--name", image]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=self.environment(STILLPOINT_TEST_PAUSE=str(pauses))) as running:
            try:
                wait_until((pauses / f"{state}.reached").exists, 60, state, interval=0.02)
                yield
            finally:
                running.kill()

    def test_differences(self):
        first = self.replicate(0, "a")
        self.assertEqual((first["mode"], first["reason"]), ("full", "the image is new"))
        second = self.replicate(1, "a", "--verify")
        self.assertEqual((second["mode"], second["base"]), ("differential", self.points[0][0]))
        # The chunk of the small change, those at the borders of the zeros, the new one; and three of zeros.
        self.assertLessEqual(second["written"], 4 * CHUNK)
        self.assertEqual(second["zeroed"], 4 * CHUNK)
        self.assertTrue(second["verified"])
        third = self.replicate(2, "a", "--verify")
        self.assertLessEqual(third["written"], 5 * CHUNK)
        self.assertEqual(self.replicate(1, "a")["mode"], "present")
        fourth = self.replicate(3, "a", "--verify")
        self.assertLessEqual(fourth["written"], 3 * CHUNK)
        self.assert_has("a", 0, 1, 2, 3)

    def test_export_diff(self):
        """The snapshots are what rbd itself takes them for."""
        self.replicate(0, "e")
        self.replicate(1, "e")
        (_, before, _), (name, after, _) = self.points[:2]
        difference = ROOT / "difference"
        FAR.rbd("export-diff", "--no-progress", "--from-snap", before, f"copies/e-vda@{after}", difference)
        FAR.rbd("export", "--no-progress", f"copies/e-vda@{before}", ROOT / "base")
        FAR.rbd("import", "--no-progress", ROOT / "base", "copies/again")
        FAR.rbd("snap", "create", "--no-progress", f"copies/again@{before}")
        FAR.rbd("import-diff", "--no-progress", difference, "copies/again")
        restored = ROOT / "restored"
        self.good("restore", name, "--disk", "vda", "--to", restored)
        FAR.rbd("export", "--no-progress", f"copies/again@{after}", ROOT / "diffed")
        self.assertEqual(digest(ROOT / "diffed"), digest(restored))

    def test_killed(self):
        """At any point: what is there in the end is what it says."""
        with self.paused(0, "k", "replica-write"):
            # Nobody else writes meanwhile.
            self.fails(10, "replicate", self.points[0][0], f"rbd:copies@{FAR.conf}", "--name", "k", says="another stillpoint")
        resumed = self.replicate(0, "k")
        self.assertEqual(resumed["mode"], "compared")
        self.assertGreater(resumed["read"], 0)
        with self.paused(1, "k", "replica-write"):
            pass
        # Another one than was interrupted: nothing of that is left.
        self.assertEqual(self.replicate(3, "k", "--verify")["mode"], "differential")
        self.assert_has("k", 0, 3)
        for state in ("replica-pending", "replica-snapshot"):
            with self.paused(0, state, state):
                pass
            self.assertEqual(self.replicate(0, state)["mode"], "present" if state == "replica-snapshot" else "compared")
            self.replicate(1, state)
            self.assert_has(state, 0, 1)

    def test_others_write(self):
        """What others have done to the image is undone."""
        self.replicate(0, "o")
        self.replicate(1, "o")
        FAR.rbd("bench", "--io-type", "write", "--io-size", "64K", "--io-total", "1M", "--io-pattern", "rand", "copies/o-vda")
        self.assertEqual(self.replicate(2, "o")["mode"], "differential")
        FAR.rbd("snap", "rollback", "--no-progress", f"copies/o-vda@{self.points[0][1]}")
        self.replicate(3, "o")
        self.assert_has("o", 0, 1, 2, 3)

    def damaged_replica(self, image):
        """Its snapshot of the first still point is another one than it says."""
        self.replicate(0, image)
        time = self.points[0][1]
        spec = f"copies/{image}-vda"
        FAR.rbd("snap", "rm", "--no-progress", f"{spec}@{time}")
        record = json.loads(FAR.rbd("image-meta", "get", spec, f"stillpoint.snapshot.{time}"))
        FAR.rbd("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", "--io-pattern", "seq", spec)
        FAR.rbd("snap", "create", "--no-progress", f"{spec}@{time}")
        record["snapshot_id"] = json.loads(FAR.rbd("snap", "ls", "--format", "json", spec))[0]["id"]
        FAR.rbd("image-meta", "set", spec, f"stillpoint.snapshot.{time}", json.dumps(record))
        damaged = self.replicate(0, image, "--verify", code=9)
        self.assertEqual(damaged["damaged"], [{"offset": 0, "length": CHUNK}])

    def test_damage_is_remembered(self):
        """What is damaged is no base, and none of those that are kept."""
        self.damaged_replica("m")
        self.assertTrue(self.replicate(0, "m", code=9)["is_damaged"])
        after = self.replicate(1, "m", "--verify")
        self.assertEqual((after["mode"], after["reason"]), ("compared", f"{self.points[0][0]} is damaged there"))
        done = self.replicate(2, "m", "--keep-last", "2")
        self.assertEqual((done["mode"], done["removed"]), ("differential", []))
        self.assertEqual([(row["name"], row["reason"]) for row in done["kept"]], [(self.points[0][0], "it is damaged")])
        self.assertEqual(self.replicate(3, "m", "--keep-last", "2")["removed"], [self.points[1][0]])

    def test_damage(self):
        """A snapshot that is another one than it says is found, and mended as the hint says."""
        self.damaged_replica("d")
        FAR.rbd("snap", "rm", "--no-progress", f"copies/d-vda@{self.points[0][1]}")
        mended = self.replicate(0, "d", "--full", "--verify")
        self.assertEqual((mended["mode"], mended["written"], mended["verified"]), ("compared", CHUNK, True))
        self.assert_has("d", 0)

    def test_retention(self):
        for number in range(2):
            self.replicate(number, "r")
        FAR.rbd("snap", "create", "--no-progress", "copies/r-vda@theirs")
        FAR.rbd("clone", "--rbd-default-clone-format", "2", f"copies/r-vda@{self.points[0][1]}", "copies/clone")
        self.replicate(2, "r")
        done = self.replicate(3, "r", "--keep-last", "1")
        self.assertEqual(done["removed"], [self.points[1][0], self.points[2][0]])
        self.assertEqual([(row["name"], row["reason"]) for row in done["kept"]], [(self.points[0][0], "copies/clone is a clone of it")])
        names = [row["name"] for row in json.loads(FAR.rbd("snap", "ls", "--format", "json", "copies/r-vda"))]
        self.assertEqual(names, [self.points[0][1], "theirs", self.points[3][1]])
        FAR.rbd("rm", "--no-progress", "copies/clone")
        self.assertEqual(self.replicate(3, "r", "--keep-last", "1")["removed"], [self.points[0][0]])
        self.assert_is(f"copies/r-vda@{self.points[3][1]}", 3)

    def test_retention_of_all_disks_or_none(self):
        """As long as one disk does not have the new still point, the older one is all there is of both."""
        place = (f"rbd:copies@{FAR.conf}", "--name", "pair", "--keep-last", "1")

        def have():
            return [[row["name"] for row in json.loads(FAR.rbd("snap", "ls", "--format", "json", f"copies/pair-{target}"))]
                    for target in ("vda", "vdb")]

        self.good("replicate", self.pairs[0], *place)
        first, second = (name.partition("@")[2] for name in self.pairs)
        with in_use("pair-vdb"):
            self.fails(10, "replicate", self.pairs[1], *place, says="in use, from 127.0.0.1")
            self.assertEqual(have(), [[first, second], [first]])
        self.good("replicate", self.pairs[1], *place)
        self.assertEqual(have(), [[second], [second]])

    def test_in_use(self):
        """Whoever has it open to write would write between."""
        self.replicate(0, "u")
        with in_use("u-vda"):
            self.fails(10, "replicate", self.points[1][0], f"rbd:copies@{FAR.conf}", "--name", "u", says="copies/u-vda is in use")
        self.replicate(1, "u")
        self.assert_has("u", 0, 1)

    def test_nobody_writes_meanwhile(self):
        """Not even who opens the replica after the look at who has it open."""
        write = ["/usr/bin/python3", "-c", HOLD.replace("print(", 'image.write(b"x", 0); print('), FAR.conf, "w-vda"]
        with self.paused(0, "w", "replica-write"):
            refused = run(write, 60, check=False, input="", env=FAR.environment)
            self.assertEqual((refused.stdout, refused.returncode), ("", 1), refused)
            self.assertIn("ReadOnlyImage", refused.stderr)
        self.replicate(0, "w")
        self.assert_has("w", 0)
        self.assertEqual(run(write, 60, input="", env=FAR.environment).stdout, "open\n")

    def test_independent(self):
        """Of replicas in two clusters neither knows of the other; layout and name are chosen."""
        layout = ("--object-size", "1M", "--stripe-unit", "64K", "--stripe-count", "4", "--image-feature", "layering",
                  "--image-feature", "exclusive-lock", "--name", "striped")
        self.good("replicate", self.points[1][0], "rbd:copies/tenant", *layout)
        self.replicate(0, "striped")
        self.replicate(1, "striped")
        info = json.loads(NEAR.rbd("info", "--format", "json", "copies/tenant/striped-vda"))
        self.assertEqual((info["object_size"], info["stripe_count"]), (MIB, 4))
        self.good("replicate", self.points[2][0], "rbd:copies/tenant", "--name", "striped", "--verify")

    def test_refusals(self):
        name = self.points[0][0]
        self.replicate(1, "x")
        self.fails(2, "replicate", name, f"rbd:copies@{FAR.conf}", "--name", "x", says="is older than")
        self.fails(4, "replicate", name, "rbd:nothere", says="has no pool 'nothere'")
        self.fails(2, "replicate", name, "copies", says="write rbd:POOL")
        self.fails(3, "replicate", name, "rbd:copies@/nonexistent", says="/nonexistent")
        self.fails(2, "replicate", name, "rbd:copies", "--image-feature", "layering", says="needs the feature exclusive-lock")
        for odd in ("a@b", "a:b", "a/b"):
            self.fails(2, "replicate", name, "rbd:copies", "--name", odd, says=f"{odd}-vda' is no")
        NEAR.rbd("create", "--size", "1M", "copies/foreign-vda")
        self.fails(2, "replicate", name, "rbd:copies", "--name", "foreign", says="is no replica")

    def test_same_pool(self):
        """One failure domain is no second place."""
        other = ROOT / "other"
        shutil.copytree(ROOT / "repository", other)
        path = next((other / "manifests").rglob(self.points[0][1]))

        def lies_there(manifest):
            manifest["disks"][0]["source"] = "rbd:copies/web-vda"
            manifest["disks"][0]["rbd"] = {"cluster": NEAR.fsid, "image_id": "1", "snapshot": "s", "snapshot_id": 1, "had_older": False}

        reseal(path, lies_there)
        self.fails(2, "replicate", "-r", other, self.points[0][0], "rbd:copies", says="lies in pool copies")
        self.good("replicate", "-r", other, self.points[0][0], f"rbd:copies@{FAR.conf}", "--name", "f")
        self.good("replicate", "-r", other, self.points[0][0], "rbd:copies", "--name", "f", "--force-same-pool")


def main():
    global NEAR, FAR, ROOT
    Replicate.program = sys.argv.pop(1)
    skip_unless_installed()
    unwind_on_signals()
    with scratch_directory() as ROOT, Ceph(ROOT / "near", pools=("copies",)) as NEAR, Ceph(ROOT / "far", pools=("copies",)) as FAR:
        NEAR.rbd("namespace", "create", "copies/tenant")
        program = unittest.main(argv=sys.argv, verbosity=2, exit=False)
        return 0 if program.result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
