// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/key-ring.hh"

#include <stop_token>
#include <string>

namespace stillpoint {

/// The key of an encrypted repository: the content of `key_file` or, when none is named, the passphrase of the
/// environment variable or, where there is one, from the terminal. Throws ConfigError, Interrupted.
[[nodiscard]] KeySource find_key(const std::string& key_file, const std::stop_token& stop);

/// Whether the environment has one.
[[nodiscard]] bool passphrase_is_given();

/// For a key that is to be added: a passphrase from the terminal is asked for twice.
[[nodiscard]] KeySource find_new_key(const std::string& key_file, const char* environment_variable,
                                     const std::stop_token& stop);

}  // namespace stillpoint
