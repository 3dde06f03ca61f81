# SPDX-License-Identifier: LGPL-2.1-or-later
"""The slow layer of the guest image: Debian 12 with systemd, both databases and qemu-ga; kernel and initramfs.

Keyed by the text of this file: an edit here means a new mmdebstrap run.
"""

import hashlib
import os
import pathlib
import shutil

from .scratch import cached, run, say

PACKAGES = (
    "systemd-sysv udev kmod procps mount e2fsprogs acl attr qemu-guest-agent postgresql-15 mariadb-server python3-minimal"
    # What our agent's package depends on: it is installed later, without a mirror at hand.
    " libglib2.0-0 libpq5 libmysqlcppconn7v5 libfmt9 libsqlite3-0 libssl3"
).split()
KERNEL = "linux-image-cloud-amd64"
# What stands between the kernel and a mounted root: the cloud kernel has these as modules. virtio_console is the
# channels, and hot-plugging one must not need a module that the image does not have.
MODULES = "virtio_pci virtio_blk virtio_scsi sd_mod virtio_console virtio_rng crc32c_generic ext4 xfs".split()
PROBE_MARK = "stillpoint-probe-booted"

INIT = f"""#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
if grep -q stillpoint.probe /proc/cmdline; then echo {PROBE_MARK} >/dev/console; reboot -f; fi
while read -r module; do insmod "/modules/$module"; done </modules/order
for word in $(cat /proc/cmdline); do case $word in root=*) root=${{word#root=}} ;; esac; done
tries=0
while [ ! -b "$root" ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
mount -o rw "$root" /root || {{ echo "initramfs: cannot mount $root" >/dev/console; poweroff -f; }}
umount /proc /sys
exec switch_root /root /sbin/init
"""
APPLETS = "sh mount umount insmod switch_root cat grep sleep echo reboot poweroff".split()


def debian_sources():
    """The host's own Debian mirrors as one-line sources; the official ones when the host is not Debian 12."""
    format_ = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(CODENAME)"
    rows = run(["apt-get", "indextargets", "--format", format_, "Created-By: Packages"], 60).stdout.splitlines()
    lines = []
    for uri, release, component, origin, codename in (row.split("|") for row in rows if row.count("|") == 4):
        if origin == "Debian" and codename.startswith("bookworm"):
            lines.append(f"deb {uri} {release} {component}")
    if not any(" bookworm " in line for line in lines):
        lines = [
            "deb http://deb.debian.org/debian bookworm main",
            "deb http://deb.debian.org/debian bookworm-updates main",
            "deb http://deb.debian.org/debian-security bookworm-security main",
        ]
    return sorted(set(lines))


def proxy_options():
    """The host's way to its mirrors, for the length of the bootstrap (the image keeps none of it)."""
    for line in run(["apt-config", "dump"], 60).stdout.splitlines():
        if line.startswith(("Acquire::http::Proxy ", "Acquire::https::Proxy ")):
            yield "--aptopt=" + line


def make_rootfs(directory):
    sources = directory / "sources.list"
    sources.write_text("\n".join(debian_sources()) + "\n", encoding="ascii")
    kernel_script = (
        'cd "$1" && mkdir -p var/tmp/kernel && chroot . sh -c "'
        "cd /var/tmp/kernel && apt-get -q -o APT::Sandbox::User=root download "
        f"$(apt-cache depends {KERNEL} | sed -n 's/^ *Depends: *//p')"
        '"'
    ).replace("$(apt", "\\$(apt")
    run(
        ["mmdebstrap", "--mode=root", "--variant=apt", "--format=tar", "--include=" + ",".join(PACKAGES)]
        + ["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""]
        + list(proxy_options())
        + [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")]
        + ["--customize-hook=" + kernel_script, f"--customize-hook=sync-out /var/tmp/kernel {directory}"]
        + ["--customize-hook=rm -rf \"$1\"/var/tmp/kernel \"$1\"/etc/apt/sources.list*", "bookworm"]
        + [directory / "rootfs.tar", sources],
        timeout=900,
        env={**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    sources.unlink()


def make_initramfs(modules, version, out):
    """Busybox and the modules of MODULES with what they depend on, in loading order."""
    tree = out.parent / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "root", "modules"):
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    shutil.copy2(busybox or "/bin/busybox", tree / "bin/busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    order = []
    for module in MODULES:
        shown = run(["modprobe", "-d", modules, "-S", version, "--show-depends", module], 60).stdout
        for line in shown.splitlines():
            words = line.split()
            if words[0] == "insmod" and words[1] not in order:
                order.append(words[1])
    for path in order:
        shutil.copy2(path, tree / "modules")
    (tree / "modules/order").write_text("".join(pathlib.Path(path).name + "\n" for path in order), encoding="ascii")
    (tree / "init").write_text(INIT, encoding="ascii")
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = run(["cpio", "-o", "-H", "newc", "--quiet"], 60, cwd=tree, text=False, input=names.encode()).stdout
    out.write_bytes(archive)
    shutil.rmtree(tree)


def make_kernel(directory):
    (deb,) = directory.glob("linux-image-*.deb")
    unpacked = directory / "kernel"
    run(["dpkg-deb", "-x", deb, unpacked], 120)
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    version = image.name.partition("-")[2]
    run(["depmod", "-b", unpacked, version], 120)
    make_initramfs(unpacked, version, directory / "initrd")
    image.rename(directory / "vmlinuz")
    shutil.rmtree(unpacked)
    deb.unlink()


def base_image():
    """The cached directory with rootfs.tar, vmlinuz and initrd; made in about two minutes when it is not there."""

    def make(directory):
        say("guest image: installing Debian 12 with PostgreSQL and MariaDB")
        make_rootfs(directory)
        make_kernel(directory)

    recipe = pathlib.Path(__file__).read_bytes()
    return cached("base-" + hashlib.sha256(recipe).hexdigest()[:16], make)


if __name__ == "__main__":
    base_image()
