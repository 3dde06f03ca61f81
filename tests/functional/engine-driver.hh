// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/discovery.hh"

namespace stillpoint::test {

/// Drives the first engine found by commands on standard input, one a line, and answers each with one JSON object a
/// line on standard output: {"command", "ok", "ms"} and "message" when it is not ok.
///
///   prepare [MS] | prepare-without-dumps [MS] | quiesce [MS] | release | report | dump NAME FILE | finish | cancel
///
/// `report` answers with "databases" besides. `dump` returns when the dump has ended. End of input ends the program
/// without finish(), as a crash would. Returns what main() shall.
int drive_engine(Discovered found);

}  // namespace stillpoint::test
