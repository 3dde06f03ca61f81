# SPDX-License-Identifier: LGPL-2.1-or-later
"""Database servers of this host, each in a directory of its own, for the tests that need real ones."""

import glob
import os
import shutil
import signal
import subprocess

from .scratch import run, wait_until

TIME_LIMIT = 120


def as_user(name):
    return {"user": name, "group": name, "extra_groups": [], "cwd": "/"}


class PostgreSql:
    def __init__(self, scratch, number):
        self.programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.directory = scratch / f"postgresql{number}"
        self.directory.mkdir()
        shutil.chown(self.directory, "postgres", "postgres")
        # As its own user the loader would be refused: it comes as whoever runs it, root.
        run([self.programs + "/initdb", "-D", self.directory / "data", "-A", "trust", "-N"], TIME_LIMIT, **as_user("postgres"))
        self.process = subprocess.Popen(
            [self.programs + "/postgres", "-D", self.directory / "data", "-k", self.directory, "-c", "listen_addresses=",
             "-c", "fsync=off"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user("postgres"),
        )
        wait_until(lambda: run(["pg_isready", "-q", "-h", self.directory], 20, check=False).returncode == 0, 60, "PostgreSQL")

    def conninfo(self, database):
        return f"host={self.directory} user=postgres dbname={database}"

    def sql(self, text, database="postgres"):
        return run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo(database), "-f", "-"], 60, input=text).stdout.strip()

    def dump(self, database, target):
        run(["pg_dump", "-d", self.conninfo(database), "-f", target], 60)
        return target

    def stop(self):
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)


class MariaDb:
    def __init__(self, scratch, number):
        self.directory = scratch / f"mariadb{number}"
        (self.directory / "tmp").mkdir(parents=True)
        for path in (self.directory, self.directory / "tmp"):
            shutil.chown(path, "mysql", "mysql")
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(self.directory / "tmp")}
        run(["mariadb-install-db", "--no-defaults", f"--datadir={self.directory}/data", "--user=mysql", "--skip-test-db",
             "--auth-root-authentication-method=socket"], TIME_LIMIT, env=environment)
        self.socket = self.directory / "s"
        self.process = subprocess.Popen(
            ["mariadbd", "--no-defaults", f"--datadir={self.directory}/data", f"--socket={self.socket}", "--user=mysql",
             "--skip-networking", f"--pid-file={self.directory}/pid", f"--log-error={self.directory}/log"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: run(self.client("-e", "SELECT 1"), 20, check=False).returncode == 0, 60, "MariaDB")

    def client(self, *arguments):
        return ["mariadb", "--no-defaults", f"--socket={self.socket}", "-N", "-B", *arguments]

    def sql(self, text, database=""):
        return run(self.client(*([database] if database else [])), 60, input=text).stdout.strip()

    def dump(self, database, target):
        options = ["--no-defaults", f"--socket={self.socket}", "--single-transaction", "--hex-blob", "--skip-dump-date",
                   "--routines", "--triggers", "--events", "--order-by-primary", "--databases", database]
        target.write_text(run(["mariadb-dump", *options], 60).stdout, encoding="utf-8")
        return target

    def stop(self):
        self.process.kill()
        self.process.wait(30)
