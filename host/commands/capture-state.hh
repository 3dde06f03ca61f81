// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain-state.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"

#include <string>
#include <vector>

namespace stillpoint {

/// A domain's state as it was at one moment, in memory: it is small.
struct CapturedState {
  std::vector<StateRecord> records;  ///< not yet stored; one that could not be read has a failure
  std::vector<std::string> contents;
  std::vector<std::string> warnings;
};

/// Reads the firmware's variables and the emulated TPM's state. What cannot be read has a record that says why.
[[nodiscard]] CapturedState read_state(const StatePlaces& places, bool running);

/// Stores them, and adds them to the manifest.
void store_state(Repository& repository, CapturedState state, Manifest& manifest);

}  // namespace stillpoint
