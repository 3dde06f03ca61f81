# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirtd beside the machine's: own configuration, domains, sockets and processes, nothing of the machine's touched.

It and its QEMUs live in a mount and a process namespace of their own (reaper.py), and all of them end with this
process. Their files are in the scratch directory, and at the same paths inside and outside, except for what libvirt
itself puts below /var/lib/libvirt and /run/libvirt: that is in `directory`/lib and `directory`/run.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import uuid

from .baseimage import PROBE_MARK
from .scratch import SKIPPED, Failure, run, say, wait_until

QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
swtpm_user = "root"
swtpm_group = "root"
"""
LIBVIRTD_CONF = """\
unix_sock_dir = "{run}"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{uuid}"
log_outputs = "2:file:{log}"
"""
REAPER = pathlib.Path(__file__).parent / "reaper.py"


def skip_unless_possible():
    """Ends the test as skipped where it cannot run at all, with the reason."""
    if os.geteuid() != 0:
        say("skipped: guests need root")
        sys.exit(SKIPPED)
    if run(["unshare", "--mount", "--pid", "--fork", "true"], 30, check=False).returncode != 0:
        say("skipped: mount and process namespaces are not permitted here")
        sys.exit(SKIPPED)


def domain_type(image):
    """"kvm" when a kernel really boots under it here, else "qemu": a /dev/kvm that opens is no proof."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "qemu"
    command = (
        "qemu-system-x86_64 -accel kvm -cpu host -m 256 -nodefaults -no-user-config -nographic -no-reboot -serial stdio"
    ).split() + ["-kernel", image.kernel, "-initrd", image.initrd, "-append", "console=ttyS0 quiet stillpoint.probe"]
    try:
        return "kvm" if PROBE_MARK in run(command, 15, check=False, errors="replace").stdout else "qemu"
    except Failure:
        return "qemu"


class Libvirtd:
    """Running from the beginning of the `with` to its end; `uri` reaches it."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.uri = f"qemu+unix:///system?socket={self.directory}/run/libvirt-sock"
        self.pid = None
        self._namespace = None
        self._errors = None

    def __enter__(self):
        for name in ("etc", "lib", "run", "cache", "log", "lock", "bin", "swtpm-log", "swtpm-ca"):
            (self.directory / name).mkdir(parents=True)
        log = self.directory / "libvirtd.log"
        text = LIBVIRTD_CONF.format(run=self.directory / "run", uuid=uuid.uuid4(), log=log)
        (self.directory / "etc/libvirtd.conf").write_text(text, encoding="utf-8")
        (self.directory / "etc/qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
        # Every emulator on the PATH would cost seconds of probing at the start; domains name theirs.
        for program in ("qemu-img", "swtpm", "swtpm_setup", "swtpm_ioctl", "swtpm_cert", "certtool"):
            if path := shutil.which(program):
                (self.directory / "bin" / program).symlink_to(path)
        binds = [f"/etc/libvirt={self.directory}/etc", f"/run/libvirt={self.directory}/run"]
        binds += [f"/var/{part}/libvirt={self.directory}/{part}" for part in ("lib", "cache", "log")]
        if os.path.isdir("/var/lib/swtpm-localca"):
            binds += [f"/var/log/swtpm={self.directory}/swtpm-log", f"/var/lib/swtpm-localca={self.directory}/swtpm-ca"]
        # A channel that is open has a lock file here. One of ours, outlived by its file, would lock out everybody's
        # domain of the same name: its process id, from this namespace, is always somebody's outside.
        binds += [f"{os.path.realpath('/var/lock')}={self.directory}/lock"]
        self._errors = open(self.directory / "reaper.log", "w", encoding="utf-8")
        self._namespace = subprocess.Popen(
            "unshare --mount --propagation private --pid --fork --kill-child --mount-proc".split()
            + [sys.executable, "-B", str(REAPER)] + binds,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )
        try:
            if self._namespace.stdout.readline().strip() != "ready":
                raise Failure("libvirtd: no namespace: " + (self.directory / "reaper.log").read_text(encoding="utf-8"))
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """Starts libvirtd in its namespace, also again after kill(); QEMUs that ran go on."""
        path = f"{self.directory}/bin:/usr/sbin:/sbin:/usr/local/sbin"
        # Ahead of compilers: freezes have limits in real time, and emulating a processor takes a whole one.
        arguments = f"nice -n -15 env PATH={path} /usr/sbin/libvirtd -f /etc/libvirt/libvirtd.conf -p {self.directory}/libvirtd.pid"
        self._namespace.stdin.write(arguments + "\n")
        self._namespace.stdin.flush()
        self.pid = int(self._namespace.stdout.readline())
        try:
            wait_until(lambda: self.virsh("list", check=False).returncode == 0, 60, "libvirtd answers")
        except Failure as failure:
            raise Failure(f"{failure}\n{(self.directory / 'reaper.log').read_text(encoding='utf-8')}") from failure

    def kill(self, signal="KILL"):
        """Sends a signal to libvirtd alone."""
        self.nsenter("kill", "-" + signal, str(self.pid))

    def nsenter(self, *command):
        """Runs a command inside the namespaces."""
        return run(self.inside(*command), 60)

    def inside(self, *command):
        """What to run for a command to run inside the namespaces, where this libvirtd is the machine's."""
        inner = run(["pgrep", "-P", str(self._namespace.pid)], 10).stdout.split()[0]
        return ["nsenter", "-t", inner, "--mount", "--pid", *command]

    def virsh(self, *arguments, timeout=60, check=True):
        return run(["virsh", "-q", "-c", self.uri, *arguments], timeout, check=check)

    def __exit__(self, *_):
        if self._namespace:
            self._namespace.stdin.close()  # the reaper ends, and all that lives below it
            try:
                self._namespace.wait(20)
            except subprocess.TimeoutExpired:
                self._namespace.kill()
                self._namespace.wait()
            self._namespace.stdout.close()
            self._namespace = None
        if self._errors:
            self._errors.close()
