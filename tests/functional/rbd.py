#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains whose disks are Ceph RBD images: real cluster, real libvirt, real QEMU; no operating system is needed.

rbd.py STILLPOINT
"""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.ceph import Ceph, skip_unless_installed  # noqa: E402
from support.companion import Companion  # noqa: E402
from support.libvirtd import Libvirtd, skip_unless_possible  # noqa: E402
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402

MIB = 1 << 20
SIZE = 48 * MIB
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    <memballoon model='none'/>
  </devices>
</domain>
"""
RBD_DISK = """\
<disk type='network' device='disk'>
  <driver name='qemu' type='raw'/>
  <auth username='cinder'><secret type='ceph' uuid='{secret}'/></auth>
  <source protocol='rbd' name='{image}'><host name='127.0.0.1' port='{port}'/></source>
  <target dev='{target}' bus='virtio'/>
</disk>
"""
FILE_DISK = """\
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/><source file='{image}'/><target dev='{target}' bus='virtio'/>
</disk>
"""
SECRET = "<secret ephemeral='no' private='{private}'><uuid>{uuid}</uuid><usage type='ceph'><name>{uuid}</name></usage></secret>"
UUIDS = {"no": "11111111-2222-3333-4444-555555555555", "yes": "11111111-2222-3333-4444-666666666666"}
VOLUME_UUID = "11111111-2222-3333-4444-777777777777"
VOLUME_SECRET = f"<secret ephemeral='no' private='no'><uuid>{VOLUME_UUID}</uuid><usage type='volume'><volume>luks</volume></usage></secret>"
ENCRYPTION = f"<encryption format='luks'><secret type='passphrase' uuid='{VOLUME_UUID}'/></encryption>"
# What the manual asks for.
CAPS = {"mon": "profile rbd", "osd": "profile rbd"}


class Rbd(unittest.TestCase):
    scratch = None
    ceph = None
    libvirtd = None
    companion = None
    random = random.Random(11)

    @classmethod
    def setUpClass(cls):
        cls.ceph.create_pool("fast")
        cls.ceph.rbd("namespace", "create", "fast/web")
        key = cls.ceph.add_user("cinder", **CAPS)
        for private, uuid in UUIDS.items():
            xml = cls.scratch / f"secret-{private}.xml"
            xml.write_text(SECRET.format(private=private, uuid=uuid), encoding="ascii")
            cls.libvirtd.virsh("secret-define", xml)
            cls.libvirtd.virsh("secret-set-value", uuid, key)
        cls.companion.init()

    def setUp(self):
        self.images = []
        self.domains = []
        self.addCleanup(self.clean_up)

    def clean_up(self):
        for domain in self.domains:
            self.libvirtd.virsh("destroy", domain, check=False)
            self.libvirtd.virsh("undefine", domain, "--checkpoints-metadata")

    # Images and domains.

    def create(self, image, *options, size=SIZE):
        self.ceph.rbd("create", "--size", f"{size}B", image, *options)
        self.write(image, *((self.random.randrange(size // 4096) * 4096, 4096 * 8) for _ in range(12)))
        return image

    def qemu_io(self, image, *commands):
        words = [word for command in commands for word in ("-c", command)]
        run(["qemu-io", "-f", "raw", "-d", "unmap", f"rbd:{image}:conf={self.ceph.conf}", *words], 60)

    def write(self, image, *places):
        size = json.loads(self.ceph.rbd("info", "--format", "json", image))["size"]
        self.qemu_io(
            image,
            *(f"write -P {self.random.randrange(1, 256)} {at} {min(length, size - at)}" for at, length in places),
        )

    def define(self, name, *disks, private="no"):
        """Disks: an RBD image, or a qcow2 file's path."""
        text = ""
        for number, image in enumerate(disks):
            template = FILE_DISK if image.startswith("/") else RBD_DISK
            target = "vd" + "abcdefgh"[number]
            text += template.format(image=image, target=target, port=self.ceph.port, secret=UUIDS[private])
        xml = self.scratch / f"{name}.xml"
        xml.write_text(DOMAIN.format(name=name, disks=text), encoding="ascii")
        if name in self.domains:
            self.libvirtd.virsh("undefine", name)
        else:
            self.domains.append(name)
        self.libvirtd.virsh("define", xml)
        return name

    @contextlib.contextmanager
    def paused(self, domain, state):
        """A backup that stands at that state; goes on at the end. Its documents are in `outcome`."""
        pauses = self.scratch / f"pauses-{domain}-{state}"
        pauses.mkdir()
        (pauses / state).touch()
        command = [self.companion.program, "backup", domain, "--no-trees", "--json", "--repository", self.companion.repository]
        with subprocess.Popen(
            [*command, "--connect", self.companion.uri], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "STILLPOINT_TEST_PAUSE": str(pauses)},
        ) as process:
            wait_until((pauses / f"{state}.reached").exists, 60, f"state {state}")
            yield process
            (pauses / f"{state}.reached").unlink()
            self.outcome, self.errors = process.communicate(timeout=120)
        shutil.rmtree(pauses)

    # Still points.

    def backup(self, domain, *arguments):
        return self.companion.backup(domain, "--no-trees", *arguments)

    def refused(self, domain, code, words, *arguments):
        done = self.companion.run("backup", domain, "--no-trees", *arguments, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr)
        return done

    def content(self, image):
        done = run(["rbd", "-c", self.ceph.conf, "export", "--no-progress", image, "-"], 60, text=False, env=self.ceph.environment)
        return hashlib.sha256(done.stdout).hexdigest()

    def restored(self, manifest, target="vda"):
        path = self.scratch / "restored.raw"
        self.companion.run("restore", manifest["name"], "--disk", target, "--to", path, "--format", "raw", "--overwrite")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def snapshots(self, image):
        return [s["name"] for s in json.loads(self.ceph.rbd("snap", "ls", "--all", "--format", "json", image))]

    def disk(self, manifest, target="vda"):
        return next(disk for disk in manifest["disks"] if disk["target"] == target)

    def check(self, manifest, *images, incremental):
        """All is as it was, and nothing but the next base is left in the cluster."""
        for number, image in enumerate(images):
            target = "vd" + "abcdefgh"[number]
            disk = self.disk(manifest, target)
            self.assertEqual(self.restored(manifest, target), self.content(image), (image, manifest))
            self.assertEqual(disk["incremental"], incremental, disk)
            ours = [name for name in self.snapshots(image) if "stillpoint" in name or name.startswith(".group")]
            self.assertEqual(ours, [disk["rbd"]["snapshot"]])
        self.assertEqual(self.groups(), [])

    def groups(self):
        return [g for pool in ("rbd", "fast", "fast/web") for g in self.ceph.rbd("group", "ls", pool).split() if "stillpoint" in g]

    def test_1_two_images_of_a_domain_that_is_shut_off_and_what_changed(self):
        striped = ("--object-size", "1M", "--stripe-unit", "64K", "--stripe-count", "4")
        images = [self.create("rbd/one"), self.create("fast/two", *striped), self.create("fast/web/three")]
        domain = self.define("off", *images)
        first = self.backup(domain)
        self.check(first, *images, incremental=False)
        self.assertEqual(self.disk(first)["full_reason"], "no earlier still point in this repository")

        unchanged = self.backup(domain)
        self.check(unchanged, *images, incremental=True)
        self.assertEqual([disk["read"] for disk in unchanged["disks"]], [0, 0, 0])

        self.write(images[0], (5 * MIB, 65536), (30 * MIB, 4096))
        self.qemu_io(images[1], f"write -P 7 {20 * MIB} 4096", f"discard {8 * MIB} {8 * MIB}")
        third = self.backup(domain)
        self.check(third, *images, incremental=True)
        for disk in third["disks"]:
            self.assertLess(disk["read"], 2 * MIB)
        # One image alone needs no group.
        self.write(images[0], (7 * MIB, 4096))
        alone = self.backup(domain, "--disk", "vda")
        self.assertTrue(self.disk(alone)["incremental"])
        self.assertEqual(self.restored(alone), self.content(images[0]))
        self.check(self.backup(domain, "--full"), *images, incremental=False)

    def test_8_copies_are_laid_out_as_the_image_was(self):
        features = [word for name in ("layering", "exclusive-lock", "object-map", "fast-diff", "journaling") for word in ("--image-feature", name)]
        image = self.create("rbd/laid", "--object-size", "1M", "--stripe-unit", "64K", "--stripe-count", "4", *features)
        domain = self.define("laid", image)
        name = self.backup(domain)["name"]

        def layout(of):
            info = json.loads(self.ceph.rbd("info", "--format", "json", of))
            return info["object_size"], info.get("stripe_unit"), info.get("stripe_count"), set(info["features"])

        kept = {"layering", "exclusive-lock", "object-map", "fast-diff", "striping"}
        self.assertEqual(layout(image), (MIB, 64 << 10, 4, kept | {"journaling"}))
        conf = ("--ceph-conf", self.ceph.conf)
        self.companion.run("restore", name, "--disk", "vda", "--to-rbd", "rbd/same", *conf)
        self.assertEqual(layout("rbd/same"), (MIB, 64 << 10, 4, kept))
        self.companion.run("replicate", name, f"rbd:fast@{self.ceph.conf}")
        self.assertEqual(layout(f"fast/{domain}-vda"), (MIB, 64 << 10, 4, kept))
        # What is asked for goes before; stripes that do not fit are left out.
        self.companion.run("restore", name, "--disk", "vda", "--to-rbd", "rbd/other", *conf, "--object-size", "32K",
                           "--image-feature", "layering")
        self.assertEqual(layout("rbd/other"), (32 << 10, None, None, {"layering"}))
        for copy in ("rbd/same", "rbd/other", f"fast/{domain}-vda"):
            self.assertEqual(self.content(copy), self.content(image))

    def test_2_what_is_no_base_is_read_in_full(self):
        image = self.create("rbd/base")
        domain = self.define("bases", image)
        reasons = {}

        def again(why, action):
            self.check(self.backup(domain), image, incremental=False)
            action()
            manifest = self.backup(domain)
            reasons[why] = self.disk(manifest)["full_reason"]
            self.check(manifest, image, incremental=False)
            self.check(self.backup(domain), image, incremental=True)
            self.ceph.rbd("snap", "purge", "--no-progress", image)

        again("resized", lambda: self.ceph.rbd("resize", "--no-progress", "--size", "64M", image))
        again("gone", lambda: self.ceph.rbd("snap", "purge", "--no-progress", image))

        def make_anew():
            self.ceph.rbd("snap", "purge", "--no-progress", image)
            self.ceph.rbd("rm", "--no-progress", image)
            self.create(image)

        again("another", make_anew)
        self.assertIn("resized", reasons["resized"])
        self.assertIn("is gone", reasons["gone"])
        self.assertIn("another image", reasons["another"])

    def test_3_a_rollback_that_object_maps_do_not_tell(self):
        image = self.create("rbd/rolled")
        domain = self.define("rolled", image)
        self.write(image, (0, 4096), (4 * MIB, 4096))
        self.ceph.rbd("snap", "create", "--no-progress", f"{image}@operators")
        self.ceph.rbd("snap", "create", "--no-progress", f"{image}@later")
        self.write(image, (0, 4096), (12 * MIB, 4096))
        self.backup(domain)
        self.ceph.rbd("snap", "rollback", "--no-progress", f"{image}@later")
        second = self.backup(domain)
        self.check(second, image, incremental=True)
        # To the base itself, and with the operator's snapshot gone: maps are right then.
        for name in ("operators", "later"):
            self.ceph.rbd("snap", "rm", "--no-progress", f"{image}@{name}")
        self.backup(domain)
        base = self.disk(self.backup(domain))["rbd"]["snapshot"]
        self.write(image, (20 * MIB, 65536))
        self.ceph.rbd("snap", "rollback", "--no-progress", f"{image}@{base}")
        self.write(image, (24 * MIB, 4096))
        self.check(self.backup(domain), image, incremental=True)

    def test_4_clones_flattened_or_not_and_images_without_object_maps(self):
        parent = self.create("rbd/parent")
        self.ceph.rbd("snap", "create", "--no-progress", f"{parent}@golden")
        self.ceph.rbd("clone", "--rbd-default-clone-format", "2", f"{parent}@golden", "rbd/clone")
        plain = self.create("rbd/plain", "--image-feature", "layering")
        domain = self.define("clones", "rbd/clone", plain)
        self.check(self.backup(domain), "rbd/clone", plain, incremental=False)
        for image in ("rbd/clone", plain):
            self.qemu_io(image, f"write -P 9 {40 * MIB} 65536", f"discard 0 {8 * MIB}")
        manifest = self.backup(domain)
        self.check(manifest, "rbd/clone", plain, incremental=True)
        self.assertLess(self.disk(manifest, "vdb")["read"], MIB)
        self.ceph.rbd("flatten", "--no-progress", "rbd/clone")
        self.write("rbd/clone", (9 * MIB, 4096))
        self.check(self.backup(domain), "rbd/clone", plain, incremental=True)

    def test_5_the_operators_groups_are_left_alone(self):
        images = [self.create("rbd/g1"), self.create("rbd/g2"), self.create("rbd/g3")]
        self.ceph.rbd("group", "create", "rbd/theirs")
        for image in images[:2]:
            self.ceph.rbd("group", "image", "add", "rbd/theirs", image)
        self.ceph.rbd("group", "snap", "create", "rbd/theirs@before")
        domain = self.define("grouped", *images)
        for _ in range(2):
            manifest = self.backup(domain)
            for number, image in enumerate(images):
                self.assertEqual(self.restored(manifest, "vd" + "abc"[number]), self.content(image))
        self.assertEqual(self.ceph.rbd("group", "ls", "rbd").split(), ["theirs"])
        self.assertEqual(self.ceph.rbd("group", "image", "ls", "rbd/theirs").split(), images[:2])
        self.assertIn("before", self.ceph.rbd("group", "snap", "ls", "rbd/theirs"))

    def test_6_a_running_domain_of_images_and_a_file(self):
        images = [self.create("rbd/r1"), self.create("rbd/r2")]
        qcow2 = str(self.scratch / "mixed.qcow2")
        run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "16M"], 30)
        domain = self.define("mixed", *images, qcow2)
        self.libvirtd.virsh("start", domain)
        first = self.backup(domain)
        self.check(first, *images, incremental=False)
        self.assertEqual(first["grade"], "crash")
        self.assertIn("some milliseconds apart", " ".join(first["warnings"]))
        for image in images:
            self.write(image, (self.random.randrange(40) * MIB, 65536))
        second = self.backup(domain)
        self.check(second, *images, incremental=True)
        self.assertTrue(self.disk(second, "vdc")["incremental"])
        self.assertEqual(second["checkpoint"], self.libvirtd.virsh("checkpoint-list", "--name", domain).stdout.strip())
        # Images alone have one instant by their group.
        only = self.backup(domain, "--disk", "vda", "--disk", "vdb")
        self.assertNotIn("some milliseconds apart", " ".join(only["warnings"]))

    def test_7_a_run_that_is_killed_leaves_nothing_for_long(self):
        images = [self.create("rbd/k1"), self.create("rbd/k2")]
        domain = self.define("killed", *images)
        self.backup(domain)
        self.libvirtd.virsh("start", domain)
        for state in ("freeze", "commit", "end-job"):
            with self.paused(domain, state) as victim:
                self.refused(domain, 10, "another backup of this domain")
                victim.send_signal(signal.SIGKILL)
                victim.wait()
            self.assertNotEqual(self.groups(), [])
            self.write(images[0], (self.random.randrange(40) * MIB, 65536))
            self.check(self.backup(domain), *images, incremental=True)

    def test_7_what_is_written_between_base_and_instant(self):
        """A comparison with the base tells nothing of what came after it and went before the next still point."""
        images = [self.create("rbd/b1"), self.create("rbd/b2")]
        domain = self.define("between", *images)
        self.libvirtd.virsh("start", domain)
        with self.paused(domain, "freeze"):
            self.write(images[0], (44 * MIB, 4 * MIB), (12 * MIB, 4096))
        first = json.loads(self.outcome)
        self.check(first, *images, incremental=False)
        self.qemu_io(images[0], f"discard {44 * MIB} {4 * MIB}")
        self.check(self.backup(domain), *images, incremental=True)
        with self.paused(domain, "freeze"):
            self.write(images[0], (16 * MIB, 4096), (40 * MIB, 65536))
        base = self.disk(json.loads(self.outcome))["rbd"]["snapshot"]
        self.ceph.rbd("snap", "rollback", "--no-progress", f"{images[0]}@{base}")
        self.check(self.backup(domain), *images, incremental=True)

    def test_7_a_snapshot_that_is_removed_while_it_is_read(self):
        image = self.create("rbd/removed")
        domain = self.define("removed", image)
        self.libvirtd.virsh("start", domain)
        for state in ("read", "commit"):
            with self.paused(domain, state):
                self.ceph.rbd("snap", "purge", "--no-progress", image)
            self.assertIn("removed while it was read", self.errors)
            self.assertEqual(json.loads(self.outcome)["error"]["code"], 7)
        self.check(self.backup(domain), image, incremental=False)

    def lockers(self, domain):
        """Of the lock in the pool that keeps other backups of the domain away."""
        return json.loads(self.lock(domain, "info"))["lockers"]

    def lock(self, domain, what, *arguments):
        uuid = self.libvirtd.virsh("domuuid", domain).stdout.strip()
        return self.ceph.rados("-p", "vault", "lock", what, f"lock/domain-{uuid}", "stillpoint", *arguments)

    def break_lock(self, domain):
        """Stands for its end, which comes when its holder was stopped for 30 seconds."""
        (locker,) = self.lockers(domain)
        self.lock(domain, "break", locker["name"], "--lock-cookie", locker["cookie"])

    def test_7_a_domain_lock_that_ended_meanwhile(self):
        """A repository in a pool: whoever stands still for half a minute loses the lock, and with it what another backup
        of the domain takes for left behind."""
        self.ceph.ask({"prefix": "osd pool create", "pool": "vault", "pg_num": 8})
        self.companion = Companion(self.companion.program, self.companion.uri, "")
        self.companion.repository = f"rados://vault?conf={self.ceph.conf}"
        self.companion.init()
        image = self.create("rbd/locked")
        domain = self.define("locked", image)
        self.check(self.backup(domain), image, incremental=False)

        self.write(image, (5 * MIB, 65536))
        with self.paused(domain, "commit") as holder:
            self.refused(domain, 10, "another backup of this domain")
            holder.send_signal(signal.SIGSTOP)
            self.break_lock(domain)
            command = [self.companion.program, "backup", domain, "--json", "--repository", self.companion.repository]
            with subprocess.Popen([*command, "--connect", self.companion.uri], stdout=subprocess.PIPE, text=True) as other:
                wait_until(lambda: self.lockers(domain), 30, "another backup that has the lock")
                # RBD would put a client that stands still for longer on the block list, to get the image's own lock.
                holder.send_signal(signal.SIGCONT)
                second = json.loads(other.communicate(timeout=90)[0])
        self.assertIn("removed while it was read", self.errors)
        self.assertEqual(json.loads(self.outcome)["error"]["code"], 7)
        self.check(second, image, incremental=True)
        self.assertEqual([point["name"] for point in self.companion.json("list")][1:], [second["name"]])

        # Nobody else has it.
        with self.paused(domain, "commit") as holder:
            self.break_lock(domain)
            self.assertTrue(any("is taken again" in line for line in holder.stderr))
            self.refused(domain, 10, "another backup of this domain")
        self.check(json.loads(self.outcome), image, incremental=True)

        # Somebody has it, but has touched nothing: it is still his when the first holder ends.
        with self.paused(domain, "commit"):
            self.break_lock(domain)
            self.lock(domain, "get", "--lock-cookie", "theirs")
        self.check(json.loads(self.outcome), image, incremental=True)
        self.assertEqual([locker["cookie"] for locker in self.lockers(domain)], ["theirs"])
        self.refused(domain, 10, "another backup of this domain")
        self.break_lock(domain)
        self.check(self.backup(domain), image, incremental=True)

    def restore_in_place(self, manifest, *arguments, code=0, says=""):
        words = ("--in-place", "--overwrite", *arguments)
        done = self.companion.run("restore", manifest["name"], *words, check=False, env={**os.environ, "CEPH_ARGS": ""})
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(says, done.stderr)

    def test_8_in_place_in_the_domains_own_cluster_alone(self):
        image = self.create("rbd/placed")
        domain = self.define("placed", image)
        manifest = self.backup(domain)
        before = self.content(image)

        def reached_by(conf):
            xml = self.scratch / "reached.xml"
            monitors = f"<host name='127.0.0.1' port='{self.ceph.port}'/>"
            xml.write_text(definition.replace(monitors, f"<config file='{conf}'/>"), encoding="utf-8")
            self.libvirtd.virsh("define", xml)

        definition = self.libvirtd.virsh("dumpxml", domain).stdout
        self.write(image, (5 * MIB, 65536))
        self.restore_in_place(manifest)
        self.assertEqual(self.content(image), before)
        self.write(image, (5 * MIB, 65536))
        changed = self.content(image)
        with Ceph(self.scratch / "other") as other:
            as_admin = ("--ceph-user", "admin", "--ceph-conf", other.conf)
            other.rbd("create", "--size", "1M", image)
            reached_by(self.ceph.conf)
            self.restore_in_place(manifest, *as_admin, code=2, says="is of " + other.fsid)
            reached_by(other.conf)
            self.restore_in_place(manifest, *as_admin, code=2, says="was in Ceph cluster " + self.ceph.fsid)
            self.assertEqual(json.loads(other.rbd("info", "--format", "json", image))["size"], MIB)
        reached_by(self.ceph.conf)
        user = self.define("user", image)
        self.restore_in_place(manifest, code=2, says="is also user's")
        self.libvirtd.virsh("undefine", user)
        self.domains.remove(user)
        self.assertEqual(self.content(image), changed)
        self.restore_in_place(manifest)
        self.assertEqual(self.content(image), before)
        self.ceph.rbd("snap", "purge", "--no-progress", image)
        self.ceph.rbd("rm", "--no-progress", image)
        self.restore_in_place(manifest, code=2, says="which is not there")

    def test_8_an_encrypted_image_keeps_its_key(self):
        image = self.create("rbd/luks")
        passphrase = self.scratch / "passphrase"
        passphrase.write_text("open sesame", encoding="ascii")
        self.ceph.rbd("encryption", "format", image, "luks1", passphrase)
        secret = self.scratch / "secret-luks.xml"
        secret.write_text(VOLUME_SECRET, encoding="ascii")
        self.libvirtd.virsh("secret-define", secret)
        self.libvirtd.virsh("secret-set-value", VOLUME_UUID, base64.b64encode(passphrase.read_bytes()).decode())
        domain = self.define("luks", image)
        xml = self.scratch / "luks.xml"
        xml.write_text(xml.read_text(encoding="ascii").replace("</source>", f"{ENCRYPTION}</source>"), encoding="ascii")
        self.libvirtd.virsh("undefine", domain)
        self.libvirtd.virsh("define", xml)
        manifest = self.backup(domain)
        self.assertIn("disk vda is encrypted", "\n".join(manifest["warnings"]))

        self.companion.run("restore", manifest["name"], "--to", self.scratch / "in-ceph", "--to-rbd", "rbd", "--ceph-conf", self.ceph.conf,
                           "--ceph-user", "cinder", "--ceph-secret", UUIDS["no"], "--name", "luks-in-ceph", "--define")
        self.domains.append("luks-in-ceph")
        self.assertEqual(self.content("rbd/luks-in-ceph-vda"), self.content(image))
        self.companion.run("restore", manifest["name"], "--to", self.scratch / "in-file", "--name", "luks-in-file", "--define")
        self.domains.append("luks-in-file")
        for name in ("luks-in-ceph", "luks-in-file"):
            self.assertIn(VOLUME_UUID, self.libvirtd.virsh("dumpxml", name).stdout)
            # QEMU opens the disk with the key, or does not start.
            self.libvirtd.virsh("start", name)
        self.libvirtd.virsh("secret-set-value", VOLUME_UUID, base64.b64encode(b"wrong").decode())
        self.libvirtd.virsh("destroy", "luks-in-file")
        self.assertNotEqual(self.libvirtd.virsh("start", "luks-in-file", check=False).returncode, 0)
        booted = self.companion.run("boot", manifest["name"], "--name", "luks-booted", check=False)
        self.assertEqual(booted.returncode, 2, booted.stderr)
        self.assertIn("cannot be decrypted", booted.stderr)
        self.assertNotIn("luks-booted", self.libvirtd.virsh("list", "--all", "--name").stdout)

    def test_8_what_is_wrong_is_said(self):
        image = self.create("rbd/wrong")
        domain = self.define("wrong", image)
        self.define(domain, image, private="yes")
        self.refused(domain, 3, "private")
        self.define(domain, "nopool/wrong")
        self.refused(domain, 4, "has no pool 'nopool'")
        self.define(domain, "rbd/nothing")
        self.refused(domain, 4, "there is no RBD image rbd/nothing")
        self.ceph.rbd("trash", "mv", image)
        self.define(domain, image)
        self.refused(domain, 4, "lies in the trash")
        with contextlib.suppress(FileNotFoundError):
            self.assertEqual([], [n for n in os.listdir(self.companion.repository / "manifests") if n.startswith("wrong")])

    def test_8_clones_that_are_rolled_back_or_cut(self):
        """The parent shows through again, or no longer; librbd fills the objects before, so that a comparison tells."""
        parent = self.create("rbd/original")
        self.write(parent, (16 * MIB, 8 * MIB), (32 * MIB, 12 * MIB))
        self.ceph.rbd("snap", "create", "--no-progress", f"{parent}@golden")
        for name, options in (("mapped", []), ("unmapped", ["--image-feature", "layering"])):
            clone = f"rbd/{name}"
            self.ceph.rbd("clone", "--rbd-default-clone-format", "2", *options, f"{parent}@golden", clone)
            self.ceph.rbd("snap", "create", "--no-progress", f"{clone}@earlier")
            domain = self.define(name, clone)
            self.write(clone, (16 * MIB, 4096), (20 * MIB, 65536), (36 * MIB, 4096))
            self.qemu_io(clone, f"discard {20 * MIB} {4 * MIB}", f"discard {36 * MIB} {4 * MIB}")
            self.backup(domain)
            before = self.content(clone)
            self.ceph.rbd("snap", "rollback", "--no-progress", f"{clone}@earlier")
            self.assertNotEqual(self.content(clone), before)
            self.check(self.backup(domain), clone, incremental=True)
            before = self.content(clone)
            for size in ("34M", "48M"):
                self.ceph.rbd("resize", "--no-progress", "--allow-shrink", "--size", size, clone)
            self.assertNotEqual(self.content(clone), before)
            self.check(self.backup(domain), clone, incremental=True)
            self.ceph.rbd("flatten", "--no-progress", clone)
            self.check(self.backup(domain), clone, incremental=True)

    def test_8_mirrored_and_migrated_images(self):
        self.ceph.rbd("mirror", "pool", "enable", "rbd", "image")
        try:
            for mode, options in (("snapshot", []), ("journal", ["--image-feature", "exclusive-lock,journaling"])):
                image = self.create(f"rbd/mirrored-{mode}", *options)
                self.ceph.rbd("mirror", "image", "enable", image, mode)
                domain = self.define(f"mirrored-{mode}", image)
                manifest = self.backup(domain)
                self.assertEqual(self.restored(manifest), self.content(image))
                self.ceph.rbd("mirror", "image", "demote", image)
                self.refused(domain, 7, "is the secondary of a mirror")
                self.ceph.rbd("mirror", "image", "promote", image)
                self.write(image, (MIB, 4096))
                manifest = self.backup(domain)
                self.assertEqual(self.restored(manifest), self.content(image))
                self.assertTrue(self.disk(manifest)["incremental"])
                self.ceph.rbd("mirror", "image", "disable", image)
        finally:
            self.ceph.rbd("mirror", "pool", "disable", "rbd")
        moving = self.create("rbd/moving")
        domain = self.define("moving", "rbd/moved")
        self.ceph.rbd("migration", "prepare", moving, "rbd/moved")
        self.refused(domain, 7, "is being migrated")
        self.ceph.rbd("migration", "execute", "--no-progress", "rbd/moved")
        self.ceph.rbd("migration", "commit", "--no-progress", "rbd/moved")
        self.check(self.backup(domain), "rbd/moved", incremental=False)

    def test_9_monitors_that_fall_silent(self):
        """The guest's own librbd would write nothing from when it is asked for a snapshot until they speak again."""
        for number, state in ((2, "prepare"), (1, "freeze")):
            with self.subTest(images=number):
                self.monitors_fall_silent(number, state)

    def monitors_fall_silent(self, number, state):
        images = [self.create(f"rbd/mute{number}{disk}") for disk in range(number)]
        domain = self.define(f"mute{number}", *images)
        self.libvirtd.virsh("start", domain)

        def write_as_guest():
            for disk in range(len(images)):
                command = f'qemu-io -d /machine/peripheral/virtio-disk{disk}/virtio-backend "write -q -P 7 1M 64k"'
                self.assertNotIn("rror", self.libvirtd.virsh("qemu-monitor-command", domain, "--hmp", command, timeout=20).stdout)

        write_as_guest()  # it holds the images' locks
        try:
            with self.paused(domain, state):
                self.ceph.signal("mon", signal.SIGSTOP)
            self.assertEqual(json.loads(self.outcome)["error"]["code"], 5, self.errors)
            self.assertIn("no monitor of Ceph cluster", self.outcome)
            write_as_guest()
        finally:
            self.ceph.signal("mon", signal.SIGCONT)
        self.check(self.backup(domain), *images, incremental=False)

    def test_9_no_cluster_no_answer(self):
        image = self.create("rbd/silent")
        domain = self.define("silent", image)
        self.backup(domain)
        self.ceph.stop("mon", signal.SIGKILL)
        try:
            self.refused(domain, 5, "cannot connect to the Ceph cluster")
        finally:
            self.ceph.start("mon")
        self.ceph.wait_for_osd()
        # An OSD that stands still for a moment is waited for.
        self.write(image, (11 * MIB, 65536))
        self.ceph.stop("osd")
        with subprocess.Popen(["sh", "-c", "sleep 3"]) as pause:
            command = [self.companion.program, "backup", domain, "--no-trees", "--repository", self.companion.repository]
            with subprocess.Popen([*command, "--connect", self.companion.uri, "--json"], stdout=subprocess.PIPE, text=True) as late:
                pause.wait()
                self.ceph.start("osd")
                out, _ = late.communicate(timeout=90)
        self.assertEqual(late.returncode, 0)
        self.check(json.loads(out), image, incremental=True)


def main():
    skip_unless_possible()
    skip_unless_installed()
    unwind_on_signals()
    with scratch_directory() as Rbd.scratch, Ceph(Rbd.scratch / "ceph", more="osd client watch timeout = 10") as Rbd.ceph, Libvirtd(Rbd.scratch / "virt") as Rbd.libvirtd:
        Rbd.companion = Companion(pathlib.Path(sys.argv.pop(1)), Rbd.libvirtd.uri, Rbd.scratch / "repository")
        unittest.main(argv=sys.argv, verbosity=2, failfast=False)


if __name__ == "__main__":
    main()
