// SPDX-License-Identifier: LGPL-2.1-or-later
// As common/pch/common.hh, for the unit tests.
#include "common/pch/common.hh"

#include <doctest/doctest.h>
