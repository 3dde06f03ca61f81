# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NFS server and the hosts that use it, all in one guest: this machine's kernel may have no NFS.

The server is the guest itself. A host is a network, UTS, PID and mount namespace with an address of its own: to the
server it is another client, with another identity and other caches, and to the repository another host.
"""

import hashlib
import inspect
import pathlib
import re
import shlex
import shutil

from .scratch import SOURCE, Failure, cached, run

# The guest image has what these need, but for the last ones.
PACKAGES = "nfs-kernel-server nfs-common rpcbind strace libnfsidmap1 libevent-core-2.1-7 libunwind8".split()
MODULES = "nfsd nfs nfsv3 nfsv4 lockd veth".split()
# The guest has its own, which fit its loader.
LIBC = re.compile(r"ld-linux|lib(c|m|dl|rt|pthread|resolv)\.so")
EXPORTED = "/srv/nfs"
# On another file system: what lies on one is not told apart.
SQUASHED = "/srv/squashed"
# Seconds. The defaults are 90: so long a restarted server waits for its clients, and they for it.
GRACE = 15

SERVER = f"""\
systemctl stop stillpoint-agent mariadb postgresql
mkdir -p /kit {EXPORTED}
mount -o ro /dev/vdd /kit
tar -C /kit/root -cf - . | tar -C / --keep-directory-symlink -xf -
ldconfig
for program in stillpoint test-repository; do
  printf '#!/bin/sh\\nLD_LIBRARY_PATH=/kit/lib exec /kit/bin/%s "$@"\\n' $program >/usr/local/bin/$program
done
cp /kit/bin/nfs-host.py /usr/local/bin/nfs-host
chmod 755 /usr/local/bin/*
mkfs.ext4 -q /dev/vde
mount /dev/vde {EXPORTED}
chmod 755 {EXPORTED}
mkdir -m 755 {SQUASHED}
modprobe -a {' '.join(MODULES)}
mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/nfsdcld /run/rpcbind
mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
touch /etc/exports /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state
for user in _rpc statd; do useradd --system --no-create-home $user; done
chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state
rpcbind -w </dev/null >/dev/null
nfsdcld </dev/null >/dev/null
echo {GRACE} >/proc/fs/nfsd/nfsv4leasetime
echo {GRACE} >/proc/fs/nfsd/nfsv4gracetime
exportfs -o rw,sync,no_subtree_check,no_root_squash,fsid=1 '*:{EXPORTED}'
exportfs -o rw,sync,no_subtree_check,root_squash,fsid=2 '*:{SQUASHED}'
rpc.mountd </dev/null >/dev/null
rpc.nfsd 4
"""

HOST = """\
systemd-run -q --collect --unit=host-{name} -p KillMode=control-group \\
  unshare --uts --net --mount --pid --fork --kill-child --mount-proc sh -c 'hostname {name}; while sleep 1; do :; done'
for try in $(seq 50); do
  outer=$(systemctl show -P MainPID host-{name})
  pid=$(pgrep -P "$outer" sh) && [ "$(nsenter -t "$pid" --uts hostname)" = {name} ] && break
  sleep 0.2
done
ip link add to-{name} type veth peer name eth0 netns "$pid"
ip address add 10.9.{number}.1/24 dev to-{name}
ip link set to-{name} up
nsenter -t "$pid" --net sh -ec 'ip link set lo up; ip address add 10.9.{number}.2/24 dev eth0; ip link set eth0 up'
echo "$pid"
"""


def kernel_release(vmlinuz):
    """"6.1.0-56-cloud-amd64", as the kernel's own header has it."""
    with open(vmlinuz, "rb") as kernel:
        header = kernel.read(64 << 10)
    at = int.from_bytes(header[0x20E:0x210], "little") + 0x200
    return header[at : at + 256].partition(b"\0")[0].decode("ascii").split()[0]


def make_user_space(directory, release):
    """root/: the packages' files, and the kernel's modules for NFS."""
    root, kernel = directory / "root", directory / "kernel"
    names = [*PACKAGES, f"linux-image-{release}"]
    run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names], 600, cwd=directory)
    for deb in directory.glob("*.deb"):
        run(["dpkg-deb", "-x", deb, kernel if deb.name.startswith("linux-image") else root], 120)
        deb.unlink()
    run(["depmod", "-b", kernel, release], 120)
    modules = pathlib.Path("lib/modules") / release
    for module in MODULES:
        for line in run(["modprobe", "-d", kernel, "-S", release, "--show-depends", module], 60).stdout.splitlines():
            if not line.startswith("insmod "):
                continue
            path = pathlib.Path(line.split()[1]).relative_to(kernel)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(kernel / path, root / path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy2(kernel / modules / name, root / modules / name)
    run(["depmod", "-b", root, release], 120)
    shutil.rmtree(kernel)


def make_kit(image, build, directory):
    """An ext4 image with all that the guest needs: root/ as above, bin/ and lib/ with the programs of the build tree."""
    release = kernel_release(image.kernel)
    recipe = " ".join([release, *PACKAGES, *MODULES]) + inspect.getsource(make_user_space)
    recipe = hashlib.sha256(recipe.encode()).hexdigest()
    user_space = cached(f"nfs-{recipe[:16]}", lambda made: make_user_space(made, release))
    kit = directory / "kit"
    for name in ("bin", "lib"):
        (kit / name).mkdir(parents=True)
    shutil.copytree(user_space / "root", kit / "root", symlinks=True)
    for program in (build / "host/stillpoint", build / "tests/unit/host/repository/test-repository"):
        if not program.exists():
            raise Failure(f"{program}: not built")
        run(["objcopy", "--strip-debug", program, kit / "bin" / program.name], 60)
        for library in re.findall(r"=> (/\S+)", run(["ldd", program], 60).stdout):
            if not LIBC.match(pathlib.Path(library).name):
                shutil.copy2(library, kit / "lib")
    shutil.copy2(SOURCE / "tests/vm/nfs-host.py", kit / "bin")
    disk = directory / "kit.raw"
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", kit, disk, "512m"], 300)
    shutil.rmtree(kit)
    return disk


def start_server(libvirtd, guest, kit, directory):
    """Makes the guest an NFS server with what `kit` brings."""
    exported = directory / "exported.raw"
    with open(exported, "wb") as disk:
        disk.truncate(4 << 30)
    for target, path in (("vdd", kit), ("vde", exported)):
        libvirtd.virsh("attach-disk", guest.name, path, target, "--subdriver", "raw", "--cache", "unsafe")
    guest.sh("for try in $(seq 100); do [ -b /dev/vdd ] && [ -b /dev/vde ] && exit; sleep 0.2; done; exit 1", 60)
    guest.sh("set -e\n" + SERVER, 600)


class Host:
    """One of the server's clients, made by start()."""

    def __init__(self, guest, name, number):
        self.guest = guest
        self.name = name
        self.server = f"10.9.{number}.1"
        self._number = number
        self._pid = None
        self._units = 0

    def start(self):
        self._pid = self.guest.sh("set -e\n" + HOST.format(name=self.name, number=self._number)).strip()

    def _inside(self, script):
        return f"nsenter -t {self._pid} --uts --net --mount --pid sh -c {shlex.quote(script)}"

    def sh(self, script, timeout=120, check=True):
        """As Guest.sh, on this host."""
        return self.guest.sh(self._inside(script), timeout, check)

    def stillpoint(self, verb, repository, *arguments, timeout=600, check=True):
        """Both streams of the program, and its exit code behind them."""
        words = shlex.join(["stillpoint", verb, "--repository", repository, *map(str, arguments)])
        return self.sh(words + ('' if check else '; echo "exit code $?"'), timeout, check)

    def mount(self, options, at, exported=EXPORTED):
        self.sh(f"mkdir -p {at} && mount -t nfs -o {options} {self.server}:{exported} {at}")

    def begin(self, script):
        """Starts a script in the background; give it to ended()."""
        self._units += 1
        unit = f"{self.name}-{self._units}"
        output = f"/run/{unit}.log"
        inner = shlex.quote(f"{{ {self._inside(script)}; }} >{output} 2>&1 </dev/null; echo $? >{output}.code")
        self.guest.sh(f"rm -f {output} {output}.code; systemd-run -q --collect --unit={unit} sh -c {inner}")
        return output

    def ended(self, output):
        """(exit code, output) of what begin() has begun; None while it runs."""
        text = self.guest.sh(f"cat {output}.code 2>/dev/null && cat {output}", check=False)
        code, _, output = text.partition("\n")
        return (int(code), output) if code else None
