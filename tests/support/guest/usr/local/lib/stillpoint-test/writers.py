# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps database clients writing: one transaction after the other down each client's pipe, until stopped.

Runs in the guest on python3-minimal, beside databases on an emulated processor: one loop, clients that stay connected.
How many transactions were acknowledged stands in /run/stillpoint-test/NAME, one number, new every second.
"""

import os
import selectors
import subprocess
import time

STATE = "/run/stillpoint-test"
PAUSE = 2.0  # seconds between two transactions of a writer: an emulated processor must have some time left


class Writer:
    """A client and the endless generator of the scripts that it is fed."""

    def __init__(self, command, user, scripts, acknowledge):
        self.command = command
        self.user = user
        self.scripts = scripts
        self.acknowledge = acknowledge
        self.client = None
        self.next_at = 0.0
        self.waiting = False

    def connect(self, errors):
        self.client = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, user=self.user, bufsize=0
        )
        self.waiting = False

    def send(self):
        try:
            self.client.stdin.write((next(self.scripts) + self.acknowledge).encode())
            self.waiting = True
        except BrokenPipeError:
            pass  # its end of file is read next


def client(command, user, script):
    """Runs a script to its end."""
    subprocess.run(command, input=script.encode(), user=user, check=True, stdout=subprocess.DEVNULL)


def drive(name, writers):
    """Feeds all writers for ever, each PAUSE seconds after its last transaction ended."""
    os.makedirs(STATE, exist_ok=True)
    errors = open(f"{STATE}/{name}.err", "ab", buffering=0)
    selector = selectors.DefaultSelector()
    done = 0
    written_at = 0.0
    for number, writer in enumerate(writers):
        writer.connect(errors)
        writer.next_at = time.monotonic() + PAUSE * number / len(writers)
        selector.register(writer.client.stdout, selectors.EVENT_READ, writer)
    while True:
        now = time.monotonic()
        for writer in writers:
            if not writer.waiting and writer.next_at <= now:
                writer.send()
        idle = [writer.next_at for writer in writers if not writer.waiting]
        timeout = max(0.0, min(idle) - now) if idle else 1.0
        for key, _ in selector.select(timeout):
            writer = key.data
            text = os.read(key.fd, 65536)
            if text:
                done += text.count(b"ack")
                writer.waiting = False
                writer.next_at = time.monotonic() + PAUSE
            else:  # the server went away: come back
                selector.unregister(key.fileobj)
                writer.client.wait()
                writer.connect(errors)
                writer.next_at = time.monotonic() + 1
                selector.register(writer.client.stdout, selectors.EVENT_READ, writer)
        if now - written_at >= 1:
            written_at = now
            with open(f"{STATE}/{name}.new", "w", encoding="ascii") as count:
                count.write(f"{done}\n")
            os.rename(f"{STATE}/{name}.new", f"{STATE}/{name}")
