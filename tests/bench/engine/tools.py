# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that keep a disk image, each called as its manual recommends for images: ours and the peers of Debian."""

import os
import shutil

from support.scratch import run

from .image import allocated
from .measure import cost

PEERS = ["qemu-img", "nbdcopy", "nbdkit", "zstd", "borg", "restic", "casync"]
NAME = "disk.raw"  # of the image, in the directory of each of its states


class Tool:
    """One way to keep images, with everything that it writes in a directory of its own.

    Every method but prepare() returns a Cost. What a tool has no way to do, it lacks the method for.
    """

    name = ""
    incremental = False

    def __init__(self, directory):
        self.directory = directory
        self.store = directory / "store"
        self.number = 0
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    def prepare(self):
        """An empty repository."""

    def save(self, state):
        """Keeps the image of one state."""
        self.number += 1
        before = allocated(self.store) if self.store.exists() else 0
        result = self.put(state / NAME)
        result.added = allocated(self.store) - before
        return result

    def put(self, image):
        raise NotImplementedError

    def cost(self, argv, **options):
        return cost(argv, self.directory, **options)


class Stillpoint(Tool):
    name = "stillpoint"
    incremental = True
    program = None
    init = ()

    def __init__(self, directory):
        super().__init__(directory)
        self.key = directory / "key"
        self.environment = {**os.environ, "STILLPOINT_REPOSITORY": str(self.store)}

    def stillpoint(self, *arguments):
        return [self.program, "--no-progress", *arguments]

    def prepare(self):
        run(self.stillpoint("init"), 60, env=self.environment)

    def put(self, image):
        # Names have seconds: two of one second are told apart by the repository.
        return self.cost(self.stillpoint("backup", "--no-trees", "--disk-image", f"vda={image}", "bench"), env=self.environment)

    def restore(self, target):
        return self.cost(
            self.stillpoint("restore", "bench@latest", "--disk", "vda", "--to", target, "--format", "raw"),
            env=self.environment)

    def verify(self):
        return self.cost(self.stillpoint("verify", "--read-data"), env=self.environment)


class StillpointEncrypted(Stillpoint):
    name = "stillpoint, encrypted"

    def prepare(self):
        self.key.write_bytes(os.urandom(32).hex().encode())
        self.key.chmod(0o600)
        self.environment["STILLPOINT_KEY_FILE"] = str(self.key)
        run(self.stillpoint("init", "--encrypt"), 60, env=self.environment)


class QemuImg(Tool):
    name = "qemu-img convert"
    options = ()

    def put(self, image):
        self.store.mkdir(exist_ok=True)
        return self.cost(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *self.options, image, self.store / "disk.qcow2"])

    def restore(self, target):
        return self.cost(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.store / "disk.qcow2", target])


class QemuImgZstd(QemuImg):
    name = "qemu-img convert -c, zstd"
    options = ("-c", "-o", "compression_type=zstd")


class NbdCopy(Tool):
    name = "nbdcopy from nbdkit"

    def put(self, image):
        self.store.mkdir(exist_ok=True)
        copy = f'nbdcopy "$uri" {self.store}/disk.raw'
        return self.cost(["nbdkit", "-U", "-", "--run", copy, "file", image])

    def restore(self, target):
        return self.cost(["nbdkit", "-U", "-", "--run", f'nbdcopy "$uri" {target}', "file", self.store / "disk.raw"])


class Zstd(Tool):
    name = "zstd -1 -T2"

    def put(self, image):
        self.store.mkdir(exist_ok=True)
        return self.cost(["zstd", "-1", "-T2", "-q", "-f", image, "-o", self.store / "disk.zst"])

    def restore(self, target):
        return self.cost(["zstd", "-d", "-q", "-f", "--sparse", self.store / "disk.zst", "-o", target])

    def verify(self):
        return self.cost(["zstd", "-t", "-q", self.store / "disk.zst"])


class Borg(Tool):
    name = "borg, fixed 4 MiB, zstd 1"
    incremental = True
    encryption = "none"

    def __init__(self, directory):
        super().__init__(directory)
        self.environment = {
            **os.environ, "BORG_BASE_DIR": str(directory / "base"), "BORG_PASSPHRASE": "benchmark",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_REPO": str(self.store)}

    def prepare(self):
        run(["borg", "init", "-e", self.encryption], 60, env=self.environment)

    def put(self, image):
        # Its cache of files would spare it the reading, but knows no block device.
        options = ["--chunker-params", "fixed,4194304", "-C", "zstd,1", "--files-cache", "disabled"]
        return self.cost(["borg", "create", *options, f"::{self.number}", NAME], cwd=image.parent, env=self.environment)

    def restore(self, target):
        with open(target, "wb") as output:
            return self.cost(["borg", "extract", "--sparse", "--stdout", f"::{self.number}", NAME], env=self.environment,
                             stdout=output)

    def verify(self):
        return self.cost(["borg", "check", "--verify-data"], env=self.environment)


class BorgEncrypted(Borg):
    name = "borg, repokey-blake2"
    encryption = "repokey-blake2"


class Restic(Tool):
    name = "restic (always encrypts)"
    incremental = True

    def __init__(self, directory):
        super().__init__(directory)
        self.environment = {
            **os.environ, "RESTIC_REPOSITORY": str(self.store), "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(directory / "cache")}

    def prepare(self):
        run(["restic", "-q", "init"], 60, env=self.environment)

    def put(self, image):
        return self.cost(["restic", "-q", "backup", "--force", NAME], cwd=image.parent, env=self.environment)

    def restore(self, target):
        with open(target, "wb") as output:
            return self.cost(["restic", "-q", "dump", "latest", "/" + NAME], env=self.environment, stdout=output)

    def verify(self):
        return self.cost(["restic", "-q", "check", "--read-data"], env=self.environment)


class Casync(Tool):
    name = "casync"
    incremental = True

    def index(self):
        return self.directory / f"{self.number}.caibx"

    def put(self, image):
        return self.cost(["casync", "make", f"--store={self.store}", self.index(), image])

    def restore(self, target):
        return self.cost(["casync", "extract", f"--store={self.store}", self.index(), target])


TOOLS = [Stillpoint, StillpointEncrypted, QemuImg, QemuImgZstd, NbdCopy, Zstd, Borg, BorgEncrypted, Restic, Casync]
