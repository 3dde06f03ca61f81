// SPDX-License-Identifier: LGPL-2.1-or-later
// As common/pch/common.hh, with the parser of the command line, the heaviest header of all.
#include "common/pch/common.hh"

#include <CLI/CLI.hpp>
