#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""One program on one host of nfs.py: writes, reads or prunes in a repository until its time is over, and tells on its
standard output, a line each, what was acknowledged to it.

nfs-host.py write SECONDS REPOSITORY DIRECTORY DOMAIN SEED
nfs-host.py read SECONDS REPOSITORY DIRECTORY
nfs-host.py prune SECONDS REPOSITORY [OPTION]...
"""

import hashlib
import pathlib
import random
import re
import subprocess
import sys
import time

BLOCK = 64 << 10  # as long as a chunk
BLOCKS = 40
# Few, so that hosts store the same ones again and again, also while prune deletes them.
POOL = 120
TIME_LIMIT = 900


def tell(*words):
    print(*words, flush=True)


def stillpoint(verb, repository, *arguments):
    command = ["stillpoint", verb, "--repository", str(repository), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT, stdin=subprocess.DEVNULL)


def failed(what, done):
    tell("failed", what, done.returncode, " ".join((done.stdout + done.stderr).split()))


def block(number):
    return hashlib.shake_128(f"block {number}".encode()).digest(BLOCK)


def write(end, repository, directory, domain, seed):
    random.seed(seed)
    image = pathlib.Path(directory) / f"{domain}.raw"
    with open(image, "wb") as disk:
        disk.truncate(BLOCKS * BLOCK + 777)
    while time.monotonic() < end:
        with open(image, "r+b") as disk:
            for _ in range(random.randint(1, 12)):
                disk.seek(random.randrange(BLOCKS) * BLOCK)
                disk.write(block(random.randrange(POOL)) if random.random() > 0.1 else bytes(BLOCK))
        done = stillpoint("backup", repository, domain, "--no-trees", "--disk-image", f"vda={image}")
        if done.returncode != 0:
            failed(f"backup of {domain}", done)
            continue
        name = re.search(r"^name +(\S+)$", done.stdout, re.MULTILINE)[1]
        tell("stored", name, hashlib.sha256(image.read_bytes()).hexdigest())


def read(end, repository, directory):
    image = pathlib.Path(directory) / "restored"
    while time.monotonic() < end:
        done = stillpoint("list", repository)
        if done.returncode != 0:
            failed("list", done)
            continue
        names = re.findall(r"^(\S+@\S+)", done.stdout, re.MULTILINE)
        tell("listed", len(names))
        if not names:
            continue
        name = random.choice(names)
        if random.random() < 0.3:
            done = stillpoint("show", repository, name)
            tell("shown", name) if done.returncode == 0 else failed(f"show {name}", done)
        done = stillpoint("restore", repository, name, "--disk", "vda", "--to", image, "--overwrite")
        if done.returncode != 0:
            failed(f"restore {name}", done)
            continue
        tell("restored", name, hashlib.sha256(image.read_bytes()).hexdigest())


def prune(end, repository, *options):
    while time.monotonic() < end:
        began = time.monotonic()
        done = stillpoint("prune", repository, *options)
        if done.returncode != 0:
            failed("prune", done)
        else:
            tell("pruned", f"{time.monotonic() - began:.0f} s:", done.stdout.strip().splitlines()[-1])
        time.sleep(1)


def main():
    verb, seconds, *arguments = sys.argv[1:]
    {"write": write, "read": read, "prune": prune}[verb](time.monotonic() + float(seconds), *arguments)


main()
