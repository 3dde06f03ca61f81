# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's end of saboteur.py."""

import ast
import pathlib
import socket
import time

from support.scratch import Failure, wait_until

SABOTEUR = pathlib.Path(__file__).with_name("saboteur.py")
PLANT = """
cat >/etc/systemd/system/saboteur.service <<END
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/saboteur.py
Nice=-20
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
END
mkdir -p /etc/systemd/system/stillpoint-agent.service.d
cat >/etc/systemd/system/stillpoint-agent.service.d/test.conf <<END
[Service]
Environment=STILLPOINT_TEST_PAUSE=/run/stillpoint-pause
END
systemctl daemon-reload
systemctl enable -q --now saboteur
systemctl restart stillpoint-agent
runuser -u postgres -- psql -qAt -d shop -c 'create table witness (mark int primary key)'
mariadb forum -e 'create table witness (mark int primary key) engine=InnoDB'
sync
"""


class Inside:
    """Commands to the saboteur, which stays in the guest's image once it is planted."""

    def __init__(self, guest):
        self.guest = guest
        self.socket = None
        self.pending = b""
        self.number = 0

    def plant(self):
        self.guest.write_file("/usr/local/lib/saboteur.py", SABOTEUR.read_bytes())
        self.guest.sh(PLANT)
        self.connect()

    def connect(self):
        """Also again, after the guest was started anew."""
        self.close()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(str(self.guest.test_socket))
        self.pending = b""
        wait_until(lambda: self._try("roles"), 120, "the saboteur answers", 0.5)

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def _try(self, verb):
        try:
            return self.ask(verb, limit=3)
        except Failure:
            return None

    def ask(self, verb, *arguments, limit=20):
        self.number += 1
        end = time.monotonic() + limit
        try:
            self.socket.settimeout(limit)
            self.socket.sendall((repr((self.number, verb, arguments)) + "\n").encode())
            while True:
                while b"\n" in self.pending:
                    line, self.pending = self.pending.split(b"\n", 1)
                    number, value = ast.literal_eval(line.decode())
                    if number == self.number:
                        return value
                self.socket.settimeout(max(0.01, end - time.monotonic()))
                part = self.socket.recv(65536)
                if not part:
                    raise Failure("the saboteur's port was closed")
                self.pending += part
        except OSError as error:
            raise Failure(f"the saboteur does not answer to {verb}: {error}") from error

    def run(self, script, limit=60):
        """(exit status or None, output)"""
        return self.ask("run", script, limit, limit=limit + 20)
