# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the guest: a second way in, over a port of its own, that answers while qemu-ga or file systems stand still.

A request is a line, repr((number, verb, arguments)), and so is its answer, repr((number, value)). Python as
python3-minimal has it; it writes to no disk by itself.
"""

import ast
import os
import signal
import subprocess
import time

PORT = "/dev/virtio-ports/org.stillpoint.test.0"
PAUSE = "/run/stillpoint-pause"  # STILLPOINT_TEST_PAUSE of the agent
PROGRAMS = {
    "hook": "/fsfreeze-hook",
    "agent": "/stillpoint-agent",
    "watchdog": "/stillpoint-watchdog",
    "qemu-ga": "/qemu-ga",
    "postgresql": "/postgres",
    "mariadb": "/mariadbd",
}


def pids(role):
    """All processes of that program: of a database server every one."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            program = os.readlink(f"/proc/{entry}/exe")
        except OSError:
            continue
        if program.endswith(PROGRAMS[role]):
            found.append(int(entry))
    return sorted(found)


def roles():
    return {role: len(pids(role)) for role in PROGRAMS}


def strike(role, number):
    struck = pids(role)
    for pid in struck:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    return len(struck)


def arm(state):
    os.close(os.open(f"{PAUSE}/{state}", os.O_CREAT | os.O_WRONLY))


def disarm():
    for name in os.listdir(PAUSE):
        os.unlink(f"{PAUSE}/{name}")


def reached(state):
    return os.path.exists(f"{PAUSE}/{state}.reached")


def set_clock(seconds):
    """Moves the guest's clock."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def run(script, limit):
    """(exit status, output); status None when it does not end. One that waits for a frozen file system cannot be killed,
    and is left behind."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, cwd="/run",
    )
    try:
        output = process.communicate(timeout=limit)[0]
        return process.returncode, output.decode("utf-8", "replace")[-20000:]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, "not over in time"


VERBS = {verb.__name__: verb for verb in (roles, strike, arm, disarm, reached, set_clock, run)}


def serve(port):
    pending = b""
    while True:
        part = os.read(port, 65536)
        if not part:  # nobody is connected
            time.sleep(0.05)
            continue
        pending += part
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            try:
                number, verb, arguments = ast.literal_eval(line.decode())
            except (ValueError, SyntaxError):
                continue  # the rest of an earlier connection
            answer = (repr((number, VERBS[verb](*arguments))) + "\n").encode()
            while answer:
                answer = answer[os.write(port, answer) :]


def main():
    os.makedirs(PAUSE, exist_ok=True)
    disarm()
    while not os.path.exists(PORT):
        time.sleep(0.1)
    serve(os.open(PORT, os.O_RDWR))


main()
