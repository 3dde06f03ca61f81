# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent alone, and the companion's side of docs/protocol.md in a few lines: to test the one, and to check the other."""

import json
import pathlib
import secrets
import socket
import struct
import subprocess
import time

from .scratch import Failure, wait_until

MAGIC = b"SPF1"
CONTROL, DATA = 1, 2
HEADER = struct.Struct("<4sB3xII")
CREDIT = 1 << 20


def start_agent(program, directory, settings, log, environment):
    """The daemon, with its socket agent.sock in `directory`: its process, and the companion's end of its channel.

    `settings` goes on in the section [agent].
    """
    conf, control = pathlib.Path(directory, "agent.conf"), pathlib.Path(directory, "agent.sock")
    control.unlink(missing_ok=True)
    conf.write_text(f"[agent]\ncontrol_socket={control}\nruntime_directory={directory}\n{settings}", encoding="utf-8")
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [program, "--config", conf, "--channel-fd", str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
        )
    wait_until(lambda: control.exists() or process.poll() is not None, 20, "the agent starts")
    return process, ours


class AgentChannel:
    """A connection to the agent through the domain's own port, or one that stands, greeted on entry and closed at the
    end."""

    def __init__(self, path="", timeout=60, connected=None):
        self.path = str(path)
        self.timeout = timeout
        self.socket = connected
        self.buffer = b""

    def __enter__(self):
        if self.socket is None:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(self.path)
        self.socket.settimeout(self.timeout)
        nonce = secrets.token_hex(16)
        self.send("hello", version=1, nonce=nonce)
        while True:  # an earlier connection's rest comes first
            frame = self.receive()
            if frame[0] == CONTROL and frame[2].get("nonce") == nonce:
                self.greeting = frame[2]
                return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, type_, **fields):
        payload = json.dumps({"type": type_, **fields}).encode()
        self.socket.sendall(HEADER.pack(MAGIC, CONTROL, 0, len(payload)) + payload)

    def _fill(self, size):
        while len(self.buffer) < size:
            part = self.socket.recv(1 << 18)
            if not part:
                raise Failure("the agent's channel was closed")
            self.buffer += part

    def receive(self):
        """The next frame: (type, stream, message or bytes)."""
        self._fill(HEADER.size)
        while not self.buffer.startswith(MAGIC):
            self.buffer = self.buffer[1:]
            self._fill(HEADER.size)
        _, type_, stream, length = HEADER.unpack_from(self.buffer)
        self._fill(HEADER.size + length)
        payload, self.buffer = self.buffer[HEADER.size : HEADER.size + length], self.buffer[HEADER.size + length :]
        return type_, stream, json.loads(payload) if type_ == CONTROL else payload

    def ask(self, type_, answer, **fields):
        """Sends a request and returns its answer; the agent's error is a Failure."""
        self.send(type_, **fields)
        while True:
            kind, _, message = self.receive()
            if kind == CONTROL and message["type"] == "error":
                raise Failure(f"agent: {message['request']}: {message['message']}")
            if kind == CONTROL and message["type"] == answer:
                return message

    def dumps(self, id_, names):
        """Reads dumps, all at once: {name: bytes}."""
        content = {}
        for stream, name in enumerate(names, 1):
            content[stream] = bytearray()
            self.send("dump", id=id_, stream=stream, name=name)
            self.send("credit", stream=stream, bytes=CREDIT)
        left = set(content)
        end = time.monotonic() + 300
        while left:
            if time.monotonic() > end:
                raise Failure(f"agent: dumps not ended: {left}")
            kind, stream, message = self.receive()
            if kind == DATA:
                content[stream] += message
                self.send("credit", stream=stream, bytes=len(message))
            elif message["type"] == "dump-end":
                if not message["ok"]:
                    raise Failure(f"agent: dump of {names[message['stream'] - 1]}: {message['message']}")
                if message["bytes"] != len(content[message["stream"]]):
                    raise Failure(f"agent: {message['bytes']} bytes sent, {len(content[message['stream']])} received")
                left.discard(message["stream"])
            elif message["type"] == "error":
                raise Failure(f"agent: {message['request']}: {message['message']}")
        return {name: bytes(content[stream]) for stream, name in enumerate(names, 1)}
