# SPDX-License-Identifier: LGPL-2.1-or-later
"""What libguestfs' appliance is built of where the machine has no kernel of its own to look at: a container, CI."""

import hashlib
import os
import pathlib

from .scratch import cache_directory, cached, run

KERNEL = "linux-image-cloud-amd64"


def _make_kernel(directory):
    depends = run(["apt-cache", "depends", KERNEL], 60).stdout
    (package,) = [line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends: linux-image-")]
    run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], 300, cwd=directory)
    (deb,) = directory.glob("*.deb")
    run(["dpkg-deb", "-x", deb, directory], 120)
    deb.unlink()
    (modules,) = (directory / "lib/modules").iterdir()
    run(["depmod", "-b", directory, modules.name], 120)


def kernel_of_its_own():
    """A directory with boot/vmlinuz-VERSION and lib/modules/VERSION, in the tests' cache."""
    name = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()[:16]
    return cached(f"kernel-{name}", _make_kernel)


def appliance_environment():
    """Variables for whoever starts an appliance; it is kept in the tests' cache, and writable for its worker."""
    kept = cache_directory() / "appliance"
    kept.mkdir(exist_ok=True)
    kept.chmod(0o1777)
    environment = {"LIBGUESTFS_CACHEDIR": str(kept)}
    # With a kernel of the machine's own, supermin finds it.
    if any(pathlib.Path("/boot").glob("vmlinuz-*")) and any(pathlib.Path("/lib/modules").glob("*")):
        return environment
    kernel = kernel_of_its_own()
    (modules,) = (kernel / "lib/modules").iterdir()
    # supermin copies from there what it finds, and fails where there is no such directory.
    os.makedirs("/lib/modules", exist_ok=True)
    return {
        **environment,
        "SUPERMIN_KERNEL": str(kernel / f"boot/vmlinuz-{modules.name}"),
        "SUPERMIN_KERNEL_VERSION": modules.name,
        "SUPERMIN_MODULES": str(modules),
    }
