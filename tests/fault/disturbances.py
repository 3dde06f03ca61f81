# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cells of the second kind: nobody dies, but something else goes wrong. Each fault has the states at which it differs."""

import contextlib
import re
import time

from support.scratch import Failure, run as run_command

from parties import KILL, PARTIES, STOP
from stage import APPLICATION, ROWS, companion_of

FAULTS = {}
MIB = 1 << 20


def fault(name, *states):
    def add(function):
        FAULTS[name] = (function, states)
        return function

    return add


def cells():
    return [(name, state) for name, (_, states) in FAULTS.items() for state in states]


def run(stage, name, state):
    return FAULTS[name][0](stage, state)


def end(stage, limit=240):
    """Lets the backup end; its outcome."""
    if not stage.backup.wait(limit):
        raise Failure("the backup does not end")
    manifest = stage.backup.manifest()
    if manifest:
        stage.is_honest(manifest, stage.mark_at_start)
    return stage.backup.outcome()


def is_not_application(stage):
    manifest = stage.backup.manifest()
    if manifest and manifest["grade"] == APPLICATION:
        raise Failure("grade application")


def is_application(stage):
    if stage.backup.outcome() != APPLICATION:
        raise Failure(f"{stage.backup.outcome()} where nothing was lost: {stage.backup.errors[-1500:]}")


@fault("thaw by another program", "freeze", "begin-job", "thaw", "report", "read")
def thaw(stage, state):
    stage.start_until(state)
    stage.libvirtd.virsh("domfsthaw", stage.guest.name, check=False)
    stage.go_on(state)
    outcome = end(stage)
    if state in ("begin-job", "thaw"):
        is_not_application(stage)
    elif state != "freeze":  # that one releases nothing yet, but the agent is told
        is_application(stage)
    return outcome


@fault("freeze by another program", "prepare", "freeze", "begin-job", "thaw", "report", "read")
def freeze(stage, state):
    stage.start_until(state)
    frozen = stage.libvirtd.virsh("domfsfreeze", stage.guest.name, check=False, timeout=90).returncode == 0
    stage.go_on(state)
    outcome = end(stage)
    if state in ("report", "read"):
        is_application(stage)
    if frozen and stage.backup.status:
        stage.files_are_written()  # by the watchdog; qemu-ga still says frozen, until its operator says otherwise
        stage.companion.run("thaw", stage.guest.name)
    return outcome


@fault("thaw later than the guest's deadline", "begin-job", "thaw")
def late_thaw(stage, state):
    stage.start_until(state)
    stage.files_are_written(40)  # the watchdog thaws
    stage.go_on(state)
    outcome = end(stage)
    is_not_application(stage)
    return outcome


@fault("freeze that arrives late", "quiescing", "quiesced")
def late_freeze(stage, state):
    """qemu-ga hangs when it has the command, and goes on when the companion has given up."""
    stage.start_until(state)
    stage.inside.ask("strike", "qemu-ga", 19)
    stage.go_on(state)
    outcome = end(stage)
    is_not_application(stage)
    stage.files_are_written()
    stage.inside.ask("strike", "qemu-ga", 18)
    return outcome


@fault("half-frozen: /srv by another program", "prepare", "freeze", "quiesced")
def half_frozen(stage, state):
    stage.start_until(state)
    stage.inside.run("fsfreeze -f /srv", 10)
    stage.go_on(state)
    outcome = end(stage)
    stage.inside.run("fsfreeze -u /srv", 10)
    return outcome


@fault("no file system to freeze", "quiesced")
def none_to_freeze(stage, state):
    """All are frozen already when qemu-ga comes: it says 0, and calls for no thaw."""
    stage.start_until(state)
    stage.inside.run("for d in /srv /var/lib/postgresql /; do fsfreeze -f $d; done", 10)
    stage.go_on(state)
    outcome = end(stage)
    is_not_application(stage)
    return outcome


@fault("control: everybody who thaws is killed", "thaw")
def control(stage, state):
    """The checks themselves: they must see a guest that is left frozen, and `stillpoint thaw` must thaw it."""
    stage.start_until(state)
    if stage.inside.run(ROWS.format(mark=0), 3)[0] == 0:
        raise Failure("the databases take writes inside the barrier")
    for name in ("companion", "thaw guard", "watchdog", "agent"):
        PARTIES[name].strike(stage, KILL)
    outcome = end(stage)
    try:
        stage.files_are_written(30)
    except Failure:
        stage.companion.run("thaw", stage.guest.name)
        return outcome + ", and frozen until stillpoint thaw"
    raise Failure("the file systems take writes although nobody has thawed")


def unplug(stage):
    xml = stage.libvirtd.virsh("dumpxml", stage.guest.name).stdout
    channels = [text for text in re.findall(r"<channel.*?</channel>", xml, re.DOTALL) if "org.stillpoint.agent.0" in text]
    alias = re.search(r"<alias name='([^']+)'", channels[0])[1]
    stage.libvirtd.virsh("detach-device-alias", stage.guest.name, alias, check=False)


@fault("channel unplugged", "prepare", "preparing", "freeze", "begin-job", "report", "read")
def unplugged(stage, state):
    stage.start_until(state)
    unplug(stage)
    stage.go_on(state)
    return end(stage)


BALLAST = "create table ballast as select repeat(md5(i::text), 32) from generate_series(1, 16000) as i"


@fault("channel unplugged in the middle of a frame", "read")
def unplugged_in_a_frame(stage, state):
    """A companion that takes no more leaves the agent with a frame that the port has no room for."""
    stage.inside.run(f"runuser -u postgres -- psql -qAt -d shop -c '{BALLAST}'", 60)
    try:
        stage.start_until(state)
        stage.go_on(state)
        time.sleep(0.5)
        PARTIES["companion"].strike(stage, STOP)
        time.sleep(4)
        unplug(stage)
        PARTIES["companion"].mend(stage, STOP)
        outcome = end(stage)
        if stage.backup.status == 0:
            raise Failure("the dumps were complete before the port went")
        return outcome
    finally:
        stage.inside.run("runuser -u postgres -- psql -qAt -d shop -c 'drop table if exists ballast'", 60)


@contextlib.contextmanager
def small_file_system(stage, name, mebibytes):
    path = stage.scratch / name
    path.mkdir()
    run_command(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", path], 10)
    try:
        yield path
    finally:
        run_command(["umount", "-l", path], 10)
        path.rmdir()


@fault("target full", "prepare", "begin-job", "read")
def target_full(stage, state):
    with small_file_system(stage, "target", 64) as path:
        companion = companion_of(stage, path / "repository")
        stage.start_until(state, companion=companion)
        with contextlib.suppress(OSError), open(path / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(MIB))
        stage.go_on(state)
        outcome = end(stage)
        if stage.listed(companion):
            raise Failure("something is listed")
    return outcome


@fault("scratch space used up by the guest's writes", "read")
def scratch_full(stage, state):
    # What is overwritten has to be kept, when it is no hole and no zeros.
    fill = "for i in $(seq 6); do cat /usr/sbin/mariadbd; done | head -c 140M | dd of=/var/tmp/written bs=1M iflag=fullblock conv=notrunc,fsync"
    stage.inside.run(fill, 120)
    stage.start_until(state, "--scratch", stage.small)
    status, output = stage.inside.run(fill, 120)
    stage.go_on(state)
    outcome = end(stage)
    if status != 0:
        raise Failure(f"the guest could not write: {output}")
    _, errors = stage.inside.run("dmesg | grep -iE 'i/o error|ext4-fs error'", 10)
    if errors:
        raise Failure(f"the guest saw errors: {errors}")
    if stage.backup.status == 0:
        raise Failure("the job was not aborted")
    return outcome


@fault("guest's clock jumps", "prepare", "preparing", "quiesced", "begin-job", "thaw", "read")
def clock_jumps(stage, state):
    """A day ahead and, in the next backup, back again."""
    day = 86400
    stage.inside.ask("set_clock", day)
    stage.start_until(state)
    stage.inside.ask("set_clock", -day)
    stage.go_on(state)
    outcome = end(stage)
    is_application(stage)
    return outcome


@fault("two backups of one domain at once", "prepare", "freeze", "begin-job", "report", "read", "commit")
def two_at_once(stage, state):
    stage.start_until(state)
    other = stage.another()
    stage.go_on(state)
    outcome = end(stage)
    if APPLICATION not in (outcome, other.outcome()):
        raise Failure(f"{outcome} and {other.outcome()}: {stage.backup.errors[-800:]} {other.errors[-800:]}")
    return f"{outcome}; the second: {other.outcome()}"
