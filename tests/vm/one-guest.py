#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""misfortunes.py, ceph.py, quiesce-watch.py and still-point.py on one guest: to boot another costs an emulated processor a minute."""

import importlib.util
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from support.suite import run_with_guest

for program in ("misfortunes", "ceph", "quiesce-watch", "still-point"):
    spec = importlib.util.spec_from_file_location(program, HERE / f"{program}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # unittest takes them by name: Misfortunes, OnCeph, QuiesceWatch, StillPoint, and ZLast, which ends the guest.
    globals().update((name, value) for name, value in vars(module).items()
                     if isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == program)

# What else it has is run by hand (docs/hacking.md).
for name in dir(QuiesceWatch):
    if name.startswith("test_") and name[5] not in "12" and name != "test_5_sigkill_in_the_window":
        delattr(QuiesceWatch, name)

run_with_guest(failfast=False)
