# SPDX-License-Identifier: LGPL-2.1-or-later
"""The companion, as an operator calls it."""

import json
import os
import pathlib
import subprocess
import unittest

from .scratch import SOURCE, Failure, run


def built_companion():
    """The program of the build tree: STILLPOINT_BUILD, or build/."""
    path = SOURCE / os.environ.get("STILLPOINT_BUILD", "build") / "host/stillpoint"
    if not path.exists():
        raise Failure(f"{path}: not built")
    return path


class Companion:
    """Commands on one repository and one libvirt."""

    def __init__(self, program, uri, repository):
        self.program = program
        self.uri = uri
        self.repository = pathlib.Path(repository)

    def run(self, verb, *arguments, timeout=600, check=True, **options):
        command = [self.program, verb, "--repository", self.repository]
        if verb in ("backup", "boot", "drill", "restore", "thaw"):
            command += ["--connect", self.uri]
        return run([*command, *arguments], timeout, check=check, **options)

    def json(self, verb, *arguments, **options):
        """The document that the verb prints with --json."""
        return json.loads(self.run(verb, "--json", *arguments, **options).stdout)

    def init(self):
        self.run("init")

    def backup(self, domain, *arguments, **options):
        """Takes a still point; its manifest."""
        return self.json("backup", domain, *arguments, **options)

    def restore(self, name, disk, to, format_):
        self.run("restore", name, "--disk", disk, "--to", to, "--format", format_)
        return to

    def dump(self, name, dump):
        """The bytes of one dump."""
        return self.run("dump", name, dump, text=False, stderr=subprocess.PIPE).stdout


def first_document(stream):
    """The document that a verb prints with --json before it goes on working."""
    text = ""
    while not text.endswith("}\n"):
        line = stream.readline()
        if not line:
            raise Failure(f"it ended before its document was complete: {text}")
        text += line
    return json.loads(text)


class Calls(unittest.TestCase):
    """Calls of the program by the words of its command line, in an environment that a test gives."""

    program = None

    @classmethod
    def environment(cls):
        return dict(os.environ)

    @classmethod
    def call(cls, *arguments):
        return run([cls.program, *arguments], 120, check=False, env=cls.environment())

    @classmethod
    def good(cls, *arguments):
        """What it prints."""
        done = cls.call(*arguments)
        if done.returncode != 0:
            raise AssertionError(f"{arguments}: {done}")
        return done.stdout

    def fails(self, code, *arguments, says):
        done = self.call(*arguments)
        self.assertEqual(done.returncode, code, done)
        self.assertIn(says, done.stderr)
        return done
