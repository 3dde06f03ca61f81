# SPDX-License-Identifier: LGPL-2.1-or-later
"""Process 1 of the namespaces that a private libvirtd and its QEMUs live in.

It ends, and the kernel with it everything below, when its standard input does: when the test is gone, however it went.
A line on standard input is a command to start, libvirtd; its process id (as this namespace counts) is the answer.
QEMUs whose libvirtd has died are adopted here, live on, and are reaped.
"""

import contextlib
import os
import signal
import subprocess
import sys


def bind(directories):
    for target, source in directories:
        os.makedirs(target, exist_ok=True)
        subprocess.run(["mount", "--bind", source, target], check=True)


def hide():
    """The machine's systemd and D-Bus must not hear of our guests, nor its cgroups hold them."""
    if os.path.isdir("/run/dbus"):
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run/dbus"], check=True)
    subprocess.run(["umount", "-R", "/sys/fs/cgroup"], check=False, stderr=subprocess.DEVNULL)


def favour():
    """This session over others of the machine, where each is a scheduling group: nice values count only within one."""
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as group:
        group.write("-15")


def main():
    bind([argument.split("=", 1) for argument in sys.argv[1:]])
    hide()
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the test, which then closes our input
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            favour()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(2, 1)
            words = line.split()
            os.execvp(words[0], words)
        print(pid, flush=True)


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


main()
