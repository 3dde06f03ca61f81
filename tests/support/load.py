# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write load in a guest: the programs below tests/support/guest/usr/local/lib/stillpoint-test."""

from .scratch import wait_until

ENGINES = ("postgresql", "mariadb")


def start_load(guest, timeout=180):
    """Starts writing into the databases that the image has; returns when every engine has had its first transactions."""
    guest.sh(
        "".join(
            f"systemd-run -q --collect --unit=load-{engine} /usr/local/lib/stillpoint-test/load-{engine} run\n"
            for engine in ENGINES
        )
    )
    wait_until(lambda: min(counts(guest).values()) > 5, timeout, f"{guest.name}: write load", 1)


def stop_load(guest):
    guest.sh("systemctl stop " + " ".join(f"load-{engine}" for engine in ENGINES))


def counts(guest):
    """Acknowledged transactions so far, per engine."""
    numbers = guest.sh(f"cd /run/stillpoint-test 2>/dev/null && cat {' '.join(ENGINES)}", check=False).split()
    if len(numbers) != len(ENGINES) or not all(number.isdigit() for number in numbers):
        return dict.fromkeys(ENGINES, 0)
    return dict(zip(ENGINES, map(int, numbers)))
