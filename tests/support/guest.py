# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest: its disks, its domain, and commands inside it through qemu-ga."""

import base64
import json
import shlex
import shutil
import time

from .scratch import Failure, run, wait_until

# Room for every way in: the agent's port is not defined, the companion plugs it in (channel=True defines it).
DOMAIN = """\
<domain type='{type}'>
  <name>{name}</name>
  <memory unit='MiB'>1024</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>root=/dev/vda console=ttyS0 quiet panic=-1 mitigations=off audit=0 net.ifnames=0 {cmdline}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  {cpu}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    <controller type='pci' model='pcie-root'/>
    {ports}
    <controller type='virtio-serial' index='0' ports='16'/>
    <controller type='usb' model='none'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    {channel}
    {test_port}
    <serial type='file'><source path='{directory}/console.log'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
"""
# The host's disk is no part of what is tested: a flush of the guest need not wait for it.
DISK = """<disk type='file' device='disk'>
      <driver name='qemu' type='{format}' cache='unsafe' discard='unmap'/>
      <source file='{path}'/><target dev='{target}' bus='virtio'/>
    </disk>"""
CPU = {
    "kvm": "<cpu mode='host-passthrough'/>",
    "qemu": "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>",
}


def fresh_disks(image, directory):
    """Disks of their own for one guest: [(target, format, path)]. vda is an overlay, as clouds have them."""
    directory.mkdir(parents=True, exist_ok=True)
    vda, vdb, vdc = (directory / name for name in ("vda.qcow2", "vdb.qcow2", "vdc.raw"))
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.vda, "-F", "qcow2", vda], 60)
    shutil.copyfile(image.vdb, vdb)
    run(["cp", "--sparse=always", "--reflink=auto", image.vdc, vdc], 60)
    return [("vda", "qcow2", vda), ("vdb", "qcow2", vdb), ("vdc", "raw", vdc)]


class Guest:
    """A domain of a private libvirtd, defined and started by the `with`, destroyed at its end."""

    def __init__(self, libvirtd, image, name, disks, type_, directory, channel=False, cmdline="", test_port=False):
        self.libvirtd = libvirtd
        self.name = name
        self.directory = directory
        self.disks = disks
        directory.mkdir(parents=True, exist_ok=True)
        self.agent_socket = directory / "agent.sock"  # of the predefined channel
        self.test_socket = directory / "test.sock"  # of a port that only tests use
        port = "<channel type='unix'><source mode='bind' path='{}'/><target type='virtio' name='org.stillpoint.{}.0'/></channel>"
        self.xml = DOMAIN.format(
            type=type_, name=name, kernel=image.kernel, initrd=image.initrd, cmdline=cmdline, directory=directory,
            cpu=CPU[type_], channel=port.format(self.agent_socket, "agent") if channel else "",
            test_port=port.format(self.test_socket, "test") if test_port else "",
            disks="\n    ".join(DISK.format(target=t, format=f, path=p) for t, f, p in disks),
            ports="\n    ".join(["<controller type='pci' model='pcie-root-port'/>"] * 10),
        )

    def __enter__(self):
        path = self.directory / f"{self.name}.xml"
        path.write_text(self.xml, encoding="utf-8")
        self.libvirtd.virsh("define", path)
        self.start()
        return self

    def start(self):
        """Also again, after it was shut off."""
        self.libvirtd.virsh("start", self.name, timeout=120)
        # QEMU's session is a scheduling group of its own, in which its nice value says nothing to others.
        self.libvirtd.nsenter("sh", "-c", f"echo -15 >/proc/$(cat /run/libvirt/qemu/{self.name}.pid)/autogroup || true")

    def __exit__(self, *_):
        self.libvirtd.virsh("destroy", self.name, check=False)
        self.libvirtd.virsh("undefine", self.name, "--checkpoints-metadata", check=False)

    def console(self):
        """What the guest wrote to its console."""
        return (self.directory / "console.log").read_text(encoding="utf-8", errors="replace")

    def qga(self, command, timeout=30, check=True, **arguments):
        """One command of the guest agent; its answer, or None when it failed and `check` is false."""
        text = json.dumps({"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}})
        done = self.libvirtd.virsh(
            "qemu-agent-command", "--timeout", str(timeout), self.name, text, timeout=timeout + 10, check=check
        )
        return json.loads(done.stdout)["return"] if done.returncode == 0 else None

    def wait_agent(self, timeout=180):
        """Until qemu-ga answers."""
        wait_until(lambda: self.qga("guest-ping", 5, check=False) is not None, timeout, f"{self.name}: qemu-ga", 0.5)

    def sh(self, script, timeout=120, check=True):
        """Runs a shell script in the guest as root; its output (both streams), or Failure."""
        pid = self.qga("guest-exec", path="/bin/sh", arg=["-c", f"exec 2>&1\n{script}"], capture_output=True)["pid"]
        end = time.monotonic() + timeout
        interval = 0.05
        while True:
            status = self.qga("guest-exec-status", pid=pid)
            if status["exited"]:
                break
            if time.monotonic() > end:
                raise Failure(f"{self.name}: still running after {timeout} s: {script}")
            time.sleep(interval)
            interval = min(interval * 1.5, 1)
        output = base64.b64decode(status.get("out-data", "")).decode("utf-8", "replace")
        if check and status.get("exitcode") != 0:
            raise Failure(f"{self.name}: exit code {status.get('exitcode')}: {script}\n{output[-4000:]}")
        return output

    def wait_databases(self, timeout=180):
        """Until both servers answer queries; recovery after a crash is part of the wait."""
        for what, script in (
            ("PostgreSQL", "runuser -u postgres -- psql -qAtc 'select 1'"),
            ("MariaDB", "mariadb -NBe 'select 1'"),
        ):
            wait_until(
                lambda: self.sh(script, 60, check=False).strip() == "1", timeout, f"{self.name}: {what} answers", 0.5
            )

    def read_file(self, path, limit=256 << 20):
        """The bytes of a file in the guest."""
        file = self.qga("guest-file-open", path=str(path), mode="r")
        try:
            parts = []
            while True:
                part = self.qga("guest-file-read", handle=file, count=2 << 20)
                parts.append(base64.b64decode(part["buf-b64"]))
                if part["eof"]:
                    return b"".join(parts)
                if sum(map(len, parts)) > limit:
                    raise Failure(f"{self.name}: {path} is longer than {limit} bytes")
        finally:
            self.qga("guest-file-close", handle=file)

    def write_file(self, path, content, mode="0644"):
        """Writes a file in the guest."""
        file = self.qga("guest-file-open", path=str(path), mode="w")
        try:
            self.qga("guest-file-write", handle=file, buf_b64=base64.b64encode(content).decode())
        finally:
            self.qga("guest-file-close", handle=file)
        self.sh(f"chmod {mode} {shlex.quote(str(path))}")
