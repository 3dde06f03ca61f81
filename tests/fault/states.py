#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The states of the flow, read from the sources: a state that is added there is a new row of the table."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.scratch import SOURCE, Failure

AGENT = SOURCE / "agent/still-point.hh"
COMPANION = SOURCE / "host/commands/backup.cc"

# The order in which one backup comes by them; [agent] the state of its still point, otherwise what the companion is
# about to do. Only the order is ours: in_order() fails when the names are not those of the sources.
ORDER = (
    "idle prepare preparing prepared freeze quiescing quiesced begin-job thaw releasing released report read commit "
    "end-job finishing"
).split()


def agent_states():
    declared = re.search(r"enum class State \{([^}]*)\}", AGENT.read_text(encoding="utf-8"))
    return [name.strip() for name in declared[1].split(",")]


def companion_steps():
    return re.findall(r'pause_for_test\("([a-z-]+)"\)', COMPANION.read_text(encoding="utf-8"))


def in_order():
    """All states, as a backup comes by them."""
    found = agent_states() + companion_steps()
    if sorted(found) != sorted(ORDER):
        raise Failure(f"the states of the flow are {sorted(found)}, the table's are {sorted(ORDER)}")
    return ORDER


if __name__ == "__main__":
    in_order()
