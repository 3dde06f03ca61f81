# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest image: the base layer, our agent installed from its package, and three disks.

vda  qcow2  ext4, the root file system with MariaDB
vdb  qcow2  ext4 over the whole disk, /var/lib/postgresql
vdc  raw    GPT: an unformatted partition, then ext4, /srv (what file trees find hard)
"""

import hashlib
import os
import pathlib
import shutil

from .baseimage import base_image
from .scratch import SOURCE, Failure, cached, run, say

GUEST_FILES = pathlib.Path(__file__).parent / "guest"
SECTOR = 512
MIB = 1 << 20
SRV_OFFSET = 10 * MIB  # where the partition with /srv begins on vdc
# Timers and consoles that only cost an emulated processor its time.
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "systemd-tmpfiles-clean.timer getty@tty1.service serial-getty@ttyS0.service systemd-update-utmp.service "
    "systemd-update-utmp-runlevel.service systemd-pstore.service systemd-logind.service"
).split()


def build_packages(*options):
    """Our .debs of this source tree, as {package name: path}; packaging/build-deb keeps them while nothing changed."""
    paths = run([SOURCE / "packaging/build-deb", *options], 1500).stdout.split()
    return {pathlib.Path(path).name.partition("_")[0]: pathlib.Path(path) for path in paths}


def in_root(root, script, timeout):
    """Runs a shell script in the unpacked image, with /proc and /dev, in namespaces that end with it."""
    outer = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs run "$1/run" && exec chroot "$1" sh -ec "$2"'
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    run(namespaces + ["sh", "-ec", outer, "in-root", root, script], timeout, env=environment)


def install_agent(root, deb):
    """As for a base image: apt in the image. Nothing is started, the package's own scripts enable what runs."""
    (root / "etc/apt/sources.list.d").mkdir(exist_ok=True)  # the image knows no mirror
    shutil.copy2(deb, root / "var/tmp/agent.deb")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    policy.chmod(0o755)
    # A dependency that is missing here is missing in baseimage.PACKAGES.
    in_root(root, "apt-get install -y -q --no-install-recommends /var/tmp/agent.deb", 300)
    policy.unlink()
    (root / "var/tmp/agent.deb").unlink()


def fill_databases(root):
    """Creates the databases of the write load while the processor is still a real one."""
    in_root(
        root,
        "install -d -o postgres -g postgres /run/postgresql; install -d -o mysql -g mysql /run/mysqld\n"
        "pg_ctlcluster 15 main start\n"
        "/usr/local/lib/stillpoint-test/load-postgresql setup\n"
        "pg_ctlcluster 15 main stop\n"
        "mariadbd --user=mysql & server=$!\n"
        "for try in $(seq 100); do mariadb-admin --silent ping 2>/dev/null && break; sleep 0.2; done\n"
        "/usr/local/lib/stillpoint-test/load-mariadb setup\n"
        "mariadb-admin shutdown; wait $server",
        120,
    )


def configure(root, identity):
    """What makes the root file system a machine's: our files over it, units off, no first-boot work left."""
    shutil.copytree(GUEST_FILES, root, dirs_exist_ok=True)
    for script in (root / "usr/local/lib/stillpoint-test").iterdir():
        script.chmod(0o755)
    for unit in MASKED:
        path = root / "etc/systemd/system" / unit
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    default = root / "etc/systemd/system/default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("/lib/systemd/system/multi-user.target")
    (root / "etc/hostname").write_text("stillpoint-test\n", encoding="ascii")
    (root / "etc/machine-id").write_text(identity[:32] + "\n", encoding="ascii")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    for stamp in ("etc/.updated", "var/.updated"):  # newer than /usr: systemd has no caches to rebuild
        (root / stamp).touch()
        os.utime(root / stamp, (2**31 - 1, 2**31 - 1))


def make_srv(tree):
    """Every kind of object that a file tree has to get right."""
    documents = tree / "documents"
    documents.mkdir(parents=True)
    for number in range(200):
        folder = documents / f"{number % 10:02}"
        folder.mkdir(exist_ok=True)
        (folder / f"page-{number}.txt").write_text(f"page {number}\n" * (number * 7), encoding="ascii")
    (tree / "empty").touch()
    (tree / "random").write_bytes(hashlib.shake_256(b"stillpoint").digest(3 * MIB + 17))
    with open(tree / "sparse", "wb") as sparse:
        for offset in (0, 5 * MIB, 40 * MIB + 4096):
            sparse.seek(offset)
            sparse.write(b"island" * 2000)
        sparse.truncate(64 * MIB)
    os.link(tree / "random", tree / "random-hard-link")
    os.link(tree / "random", documents / "another-hard-link")
    (tree / "link").symlink_to("documents/00")
    (tree / "long-link").symlink_to("x" * 200)
    (tree / "dangling").symlink_to(b"nowhere\xff".decode("utf-8", "surrogateescape"))
    with open(os.fsencode(tree) + b"/latin1-\xe4\xf6\xfc", "wb") as latin1:
        latin1.write(b"a name that is no UTF-8\n")
    (tree / "new\nline").write_text("a name with a line break\n", encoding="ascii")
    os.mkfifo(tree / "fifo", 0o640)
    os.mknod(tree / "null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mknod(tree / "loop", 0o660 | 0o060000, os.makedev(7, 200))
    program = tree / "setuid"
    program.write_bytes(b"#!/bin/true\n")
    os.chown(program, 1000, 1001)
    program.chmod(0o6755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    os.setxattr(tree / "empty", "user.note", b"a value with \x00 in it")
    os.setxattr(documents, "user.large", bytes(range(256)) * 2)
    run(["setfacl", "-m", "u:1000:rw,g:1001:r", tree / "random"], 30)
    run(["setfacl", "-m", "d:u:1000:rwx", documents], 30)
    # cap_net_bind_service=ep, as setcap writes it
    os.setxattr(program, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.utime(tree / "empty", ns=(1, 1_500_000_000_123_456_789))


def make_ext4(image, tree, label, size, offset=0):
    """An ext4 file system with the contents of `tree`, written without mounting anything."""
    run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-E", f"lazy_itable_init=0,lazy_journal_init=0,offset={offset}"]
        + ["-L", label, "-d", tree, image, f"{size // 1024}k"],
        300,
    )


def make_partitioned(image, tree, size):
    """A GPT disk; the file system is in its second partition."""
    with open(image, "wb") as disk:
        disk.truncate(size)
    start = SRV_OFFSET
    length = size - start - 2 * MIB
    table = f"label: gpt\nstart=2048, size={8 * MIB // SECTOR}\nstart={start // SECTOR}, size={length // SECTOR}\n"
    run(["sfdisk", "-q", image], 60, input=table)
    make_ext4(image, tree, "srv", length, start)


def to_qcow2(raw, qcow2):
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], 300)
    raw.unlink()


class Image:
    """A cached guest image; its files are never written to."""

    def __init__(self, directory, base):
        self.vda = directory / "vda.qcow2"
        self.vdb = directory / "vdb.qcow2"
        self.vdc = directory / "vdc.raw"
        self.kernel = base / "vmlinuz"
        self.initrd = base / "initrd"


def guest_image(agent_deb=None):
    """The image with the agent of `agent_deb` (None: without an agent), built when the cache does not have it."""
    base = base_image()
    recipe = hashlib.sha256(base.name.encode() + pathlib.Path(__file__).read_bytes())
    for path in sorted(path for path in GUEST_FILES.rglob("*") if path.is_file()):
        recipe.update(str(path.relative_to(GUEST_FILES)).encode() + path.read_bytes())
    if agent_deb:
        recipe.update(agent_deb.read_bytes())
    identity = recipe.hexdigest()

    def make(directory):
        say("guest image: " + ("installing the agent" if agent_deb else "without an agent"))
        if os.geteuid() != 0:
            raise Failure("the guest image is made by root")
        root = directory / "root"
        root.mkdir()
        run(["tar", "-C", root, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", base / "rootfs.tar"], 300)
        if agent_deb:
            install_agent(root, agent_deb)
        configure(root, identity)
        fill_databases(root)
        postgresql = directory / "postgresql"
        (root / "var/lib/postgresql").rename(postgresql)
        (root / "var/lib/postgresql").mkdir()
        make_ext4(directory / "vda.raw", root, "root", 3072 * MIB)
        make_ext4(directory / "vdb.raw", postgresql, "pgdata", 1024 * MIB)
        srv = directory / "srv"
        make_srv(srv)
        make_partitioned(directory / "vdc.raw", srv, 256 * MIB)
        to_qcow2(directory / "vda.raw", directory / "vda.qcow2")
        to_qcow2(directory / "vdb.raw", directory / "vdb.qcow2")
        for tree in (root, postgresql, srv):
            shutil.rmtree(tree)

    return Image(cached("image-" + identity[:16], make), base)
