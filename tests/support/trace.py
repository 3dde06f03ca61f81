# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which system calls of a process could change a file system."""

import contextlib
import re
import signal
import subprocess

from .scratch import Failure, wait_until

CALL = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*)$")
OPENS = {"open", "openat", "openat2", "creat"}
FOR_CHANGES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)|^creat")
# The descriptor comes first; -y shows what it leads to: a path, or "socket:[...]", "anon_inode:...", "pipe:[...]".
WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "ftruncate", "fallocate", "fsync", "fdatasync", "syncfs", "fchmod", "fchown", "fsetxattr"}
TO_A_FILE = re.compile(r"^\d+<(/(?!dev/null)[^>]*)>")
ALWAYS = {
    "execve", "execveat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "link", "linkat", "symlink",
    "symlinkat", "mknod", "mknodat", "chmod", "fchmodat", "chown", "lchown", "fchownat", "utime", "utimensat", "truncate", "setxattr",
    "lsetxattr", "removexattr", "sync", "mount", "umount2", "copy_file_range", "splice",
}


class Trace:
    """What some processes, with all their threads, asked the kernel for."""

    def __init__(self, path):
        self.path = path

    def calls(self):
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := CALL.match(line):
                yield match

    def seen(self):
        """Process and thread ids that asked for anything."""
        return {int(call["pid"]) for call in self.calls()}

    def changes(self):
        """The lines of calls that change a file system, or would wait for a frozen one."""
        return [call.string for call in self.calls() if changes(call["name"], call["arguments"])]


def changes(name, arguments):
    if name in OPENS:
        return bool(FOR_CHANGES.search(name if name == "creat" else arguments))
    return name in ALWAYS or (name in WRITES and bool(TO_A_FILE.match(arguments)))


@contextlib.contextmanager
def traced(pids, path):
    """Traces these processes into the file `path`, which no traced process may be in the way of."""
    command = ["strace", "-f", "-y", "-s", "32", "-o", str(path)]
    for pid in pids:
        command += ["-p", str(pid)]
    with open(f"{path}.said", "w+", encoding="utf-8") as said:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said) as strace:
            try:
                def attached():
                    text = open(said.name, encoding="utf-8").read()
                    if strace.poll() is not None:
                        raise Failure(f"strace: {text}")
                    return all(f"Process {pid} attached" in text for pid in pids)

                wait_until(attached, 20, "strace is attached", 0.02)
                yield Trace(path)
            finally:
                strace.send_signal(signal.SIGINT)
                strace.wait(20)
