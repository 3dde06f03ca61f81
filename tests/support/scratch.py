# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scratch and cache directories, commands with time limits."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77


class Failure(Exception):
    """What a fixture could not do, in one line, with the output of the command that failed below it."""


def say(text):
    """One line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(argv, timeout, check=True, **options):
    """Runs a command to its end and returns it with its output as text; raises Failure with that output."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    options.setdefault("text", True)
    if options.get("input") is not None:
        options.pop("stdin")
    argv = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(argv, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{argv[0]}: still running after {timeout} s: {' '.join(argv)}") from error
    except FileNotFoundError as error:
        raise Failure(f"{argv[0]}: not installed; run packaging/install-deps test") from error
    if check and done.returncode != 0:
        parts = [done.stdout if isinstance(done.stdout, str) else None, done.stderr]
        parts = [part.decode(errors="replace") if isinstance(part, bytes) else part for part in parts]
        output = "".join(part for part in parts if part).strip()
        raise Failure(f"{argv[0]}: exit code {done.returncode}: {' '.join(argv)}\n{output[-4000:]}")
    return done


def free_port():
    """A port of the loopback device that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, timeout, what, interval=0.1):
    """Calls `condition` until it returns something true, and returns that."""
    end = time.monotonic() + timeout
    while True:
        if found := condition():
            return found
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {timeout} s")
        time.sleep(interval)


def unwind_on_signals():
    """Makes SIGTERM and SIGHUP end the program as SIGINT does: through every `with` and `finally`."""

    def stop(number, _frame):
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _sweep(parent):
    """Removes what killed tests have left: a live one holds its lock."""
    for path in pathlib.Path(parent).glob("stillpoint-test-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 60:
                with open(path / "lock", "w", encoding="ascii") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def scratch_directory():
    """A new directory for everything that one test writes, gone at the end. TMPDIR chooses where (default /var/tmp).

    STILLPOINT_TEST_KEEP=1 keeps it, to look at a failure.
    """
    parent = os.environ.get("TMPDIR", "/var/tmp")
    _sweep(parent)
    path = pathlib.Path(tempfile.mkdtemp(prefix="stillpoint-test-", dir=parent))
    path.chmod(0o755)
    with open(path / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            if os.environ.get("STILLPOINT_TEST_KEEP"):
                kept = path.rename(path.with_name(path.name.replace("stillpoint-test-", "stillpoint-kept-")))
                say(f"kept: {kept}")
            else:
                shutil.rmtree(path, ignore_errors=True)


def cache_directory():
    """Where images and packages live between runs; each has a name that tells what it was made of."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "/var/tmp")) / "stillpoint-tests"
    path = pathlib.Path(os.environ.get("STILLPOINT_TEST_CACHE", default)).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def cached(name, make, keep=2):
    """The cache's directory `name`; `make(directory)` fills it when it is not there, and one process only.

    Of those with the same name before the last hyphen the newest `keep` stay.
    """
    cache = cache_directory()
    family = name.rpartition("-")[0]
    with open(cache / f"{family}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = cache / name
        if not path.is_dir():
            unfinished = cache / f"{name}.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:
                make(unfinished)
                unfinished.rename(path)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        os.utime(path)
        siblings = [entry for entry in cache.glob(f"{family}-*") if entry.is_dir()]
        for old in sorted(siblings, key=lambda entry: entry.stat().st_mtime)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return path
