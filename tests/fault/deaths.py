# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cells of the first kind: a party is killed, or stopped for as long as the backup takes, at a state."""

import contextlib

from support.scratch import Failure, wait_until

from parties import BELOW_THE_GUEST, KILL, PARTIES, STOP, InGuest
from stage import APPLICATION
from states import agent_states, in_order

# Whose death at these states takes away what the grade application is made of.
BARRIER = ("quiescing", "quiesced", "begin-job", "thaw")
ESSENTIAL = {"hook": ("quiescing", "quiesced"), "agent": BARRIER, "postgresql": BARRIER, "mariadb": BARRIER}
ABSENT = "-"  # the party does not live at this state


def cells(parties):
    """Every (fault, state) of these."""
    return [(f"{signal} {party}", state) for signal in ("KILL", "STOP") for party in parties for state in in_order()]


def is_absent(stage, party, state):
    """Without looking again, where another cell has looked."""
    if state == "idle":
        return party.name in ("hook", "companion", "thaw guard")
    return isinstance(party, InGuest) and stage.present.get(state, {}).get(party.name) == 0


def may_take_its_time(name, state):
    """Whether its silence is no reason to give up: a dump's first row may be a quarter of an hour away."""
    return name in (*BELOW_THE_GUEST, "libvirtd", "postgresql", "mariadb") or (name, state) == ("agent", "read")


def wait_for_end(stage, party, number, state):
    """The backup's end, and what must hold while the party is still stopped."""
    backup = stage.backup
    if number == STOP and party.name == "companion":
        if state in ("quiescing", "quiesced"):  # what it has asked for comes without it
            wait_until(stage.is_frozen, 20, "the freeze", 0.2)
        stage.files_are_written()  # thawed by others
        party.mend(stage, number)
    # Waiting for these may last as long as they hang.
    elif number == STOP and may_take_its_time(party.name, state) and not backup.wait(45):
        if party.name not in BELOW_THE_GUEST:
            stage.files_are_written()
        party.mend(stage, number)
    if not backup.wait(240):
        raise Failure("the backup does not end")
    if number == STOP and party.name not in BELOW_THE_GUEST:
        stage.files_are_written()
        if party.name not in ("postgresql", "mariadb"):
            stage.rows_are_written()


def found_again(stage):
    """Whether libvirt has noticed that qemu-ga is there again. It drops the event when a backup job runs for 30 s longer:
    then nothing of the host reaches it before it is restarted once more."""

    def answers():
        return stage.guest.qga("guest-ping", 5, check=False) is not None

    with contextlib.suppress(Failure):
        return wait_until(answers, 10, "qemu-ga", 1)
    stage.inside.run("systemctl restart qemu-guest-agent", 30)
    wait_until(answers, 90, "qemu-ga after its restart", 1)
    return False


def run(stage, fault, state):
    """The outcome of one cell in a few words; Failure when something does not hold that must."""
    signal, _, name = fault.partition(" ")
    number = {"KILL": KILL, "STOP": STOP}[signal]
    party = PARTIES[name]
    if is_absent(stage, party, state):
        return ABSENT
    stage.start_until(state)
    if state != "idle":
        stage.present[state] = stage.inside.ask("roles")
    struck = party.strike(stage, number)
    # Nobody can tell an agent to go on whose guest stands still: it goes on with the guest.
    if name != "QEMU" or state == "idle" or state not in agent_states():
        stage.go_on(state)
    try:
        wait_for_end(stage, party, number, state)
    finally:
        if struck:
            party.mend(stage, number)
    manifest = stage.backup.manifest()
    if manifest:
        stage.is_honest(manifest, stage.mark_at_start)
        if number == KILL and manifest["grade"] == APPLICATION and struck and state in ESSENTIAL.get(name, ()):
            raise Failure(f"grade application although the {name} was killed {state}")
    if not struck:
        return ABSENT
    lost = name == "qemu-ga" and number == KILL and not found_again(stage)
    return stage.backup.outcome() + ", qemu-ga restarted" * lost
