# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest with PostgreSQL and MariaDB, written to without a pause, is captured twice, restored, and compared.

Run by tests/demo. Prints what it does, then a table; the exit code is 0 when every row of it is good.
"""

import sys
import time

from .companion import Companion, built_companion
from .guest import Guest, fresh_disks
from .image import build_packages, guest_image
from .libvirtd import Libvirtd, domain_type, skip_unless_possible
from .load import counts, start_load, stop_load
from .proof import Row, prove_databases, prove_trees, restore_disks, size
from .scratch import Failure, scratch_directory, unwind_on_signals

STARTED = time.monotonic()


def say(text):
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def describe_disks(manifest):
    for disk in manifest["disks"]:
        how = "incremental" if disk["incremental"] else "full"
        reason = f" ({disk['full_reason']})" if disk.get("full_reason") else ""
        amounts = f"read {size(disk['read'])}, changed {size(disk['changed'])}, stored {size(disk['stored'])}"
        yield Row(f"disk {disk['target']}, {how}", amounts + reason, True)


def describe_window(manifest):
    """Grade and freeze window with its parts."""
    good = manifest["grade"] == "application"
    yield Row("grade", manifest["grade"], good, "\n".join(manifest["grade_reasons"]))
    window = manifest["window"]
    parts = {name: window[f"{name}_us"] / 1000 for name in ("hooks", "barrier", "disk_snapshots", "thaw")}
    parts["FIFREEZE"] = (window["freeze_us"] - window["hooks_us"] - window["barrier_us"]) / 1000
    text = ", ".join(f"{name.replace('_', ' ')} {took:.0f}" for name, took in parts.items())
    total = window["total_us"] / 1000
    same = window["frozen"] == window["thawed"]
    yield Row("freeze window", f"{total:.0f} ms ({text}); {window['frozen']} file systems", total < 1500 and same)


def take_two(companion, guest):
    """A full still point and, with the load running on, an incremental one."""
    manifests = []
    for number in (1, 2):
        before = counts(guest)
        say(f"still point {number}")
        manifests.append(companion.backup(guest.name))
        after = counts(guest)
        wrote = ", ".join(f"{engine} {after[engine] - before[engine]}" for engine in before)
        say(f"  {manifests[-1]['name']}; transactions meanwhile: {wrote}")
        time.sleep(5)
    return manifests


def show(rows):
    """The table, and whether all of it is good."""
    width = max(len(row.what) for row in rows)
    print()
    for row in rows:
        print(f"{'ok  ' if row.good else 'FAIL'} {row.what:{width}}  {row.found}")
        if not row.good and row.detail:
            print("     " + row.detail.replace("\n", "\n     "))
    return all(row.good for row in rows)


def tell_the_story(scratch):
    say("building the agent's package and the guest image")
    image = guest_image(build_packages("--agent-only")["stillpoint-agent"])
    kind = domain_type(image)
    rows = []
    with Libvirtd(scratch / "libvirtd") as libvirtd:
        companion = Companion(built_companion(), libvirtd.uri, scratch / "repository")
        companion.init()
        say(f"booting web1 under libvirt ({'KVM' if kind == 'kvm' else 'emulated: no usable KVM here'})")
        with Guest(libvirtd, image, "web1", fresh_disks(image, scratch / "web1"), kind, scratch / "web1") as guest:
            guest.wait_agent()
            guest.wait_databases()
            say("starting eight PostgreSQL and six MariaDB writers")
            start_load(guest)
            manifests = take_two(companion, guest)
            stop_load(guest)
        listed = [entry["name"] for entry in companion.json("list")]
        print(companion.run("list").stdout, end="")
        rows.append(Row("listed", ", ".join(listed), listed == [manifest["name"] for manifest in manifests]))
        for manifest in manifests:
            rows += describe_window(manifest)
            rows += describe_disks(manifest)
        for disk in manifests[1]["disks"]:
            if disk["format"] == "qcow2" and not disk["incremental"]:
                rows.append(Row(f"disk {disk['target']}", "the second still point is not incremental", False))
        say("restoring the second still point")
        disks = restore_disks(companion, manifests[1], scratch / "restored")
        say("comparing file trees with the restored disks")
        rows += prove_trees(companion, manifests[1], disks, scratch)
        say("booting web2 from the restored disks; the databases recover")
        with Guest(libvirtd, image, "web2", disks, kind, scratch / "web2") as guest:
            guest.wait_agent()
            guest.wait_databases()
            say("comparing stored dumps with dumps of the recovered databases")
            rows += prove_databases(companion, manifests[1], guest)
    return rows


def main():
    unwind_on_signals()
    skip_unless_possible()
    try:
        with scratch_directory() as scratch:
            rows = tell_the_story(scratch)
        good = show(rows)
        say("every row is good" if good else "some rows are not good")
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        good = False
    sys.exit(0 if good else 1)


main()
