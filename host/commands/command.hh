// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"
#include "host/commands/host-config.hh"
#include "host/commands/progress.hh"
#include "host/repository/repository.hh"

#include <functional>
#include <optional>
#include <stop_token>
#include <string>

namespace CLI {
class App;
}

namespace stillpoint {

/// How the program was called, for the verb that runs.
struct Invocation {
  std::string repository_url;  ///< empty when nobody named one
  std::string libvirt_uri;     ///< empty for libvirt's default
  HostConfig config;
  bool json = false;  ///< the result is one JSON document on stdout
  Progress::Mode progress = Progress::Mode::notes;
  std::stop_token stop;  ///< requested by a signal

  bool key_is_meant = false;  ///< a key was given for this very repository
  std::string key_file;       ///< of an encrypted repository; empty when nobody named one

  /// Throws UsageError that says how to name one.
  [[nodiscard]] const std::string& repository() const;
  /// Opens it, with its key when it is encrypted; `used`: that key, for a program that opens it too. Throws UsageError,
  /// ConfigError.
  [[nodiscard]] Repository open(Repository::Mode mode, std::optional<KeySource>* used = nullptr) const;
};

/// Runs the verb with what its options were parsed to. Results go to stdout; what is wrong is thrown. The code is
/// success, or incomplete, corruption or drill_failed for a result that has a flaw.
using RunVerb = std::function<ExitCode(const Invocation&)>;

/// A verb of the command line.
struct Verb {
  const char* name;
  const char* summary;  ///< one line for --help
  /// Adds the verb's options to its parser; what they are parsed to lives as long as the returned function.
  RunVerb (*add)(CLI::App& parser);
};

// One file per verb, or for those that belong together.
[[nodiscard]] RunVerb add_init(CLI::App& parser);
[[nodiscard]] RunVerb add_backup(CLI::App& parser);
[[nodiscard]] RunVerb add_list(CLI::App& parser);
[[nodiscard]] RunVerb add_show(CLI::App& parser);
[[nodiscard]] RunVerb add_replicate(CLI::App& parser);
[[nodiscard]] RunVerb add_restore(CLI::App& parser);
[[nodiscard]] RunVerb add_dump(CLI::App& parser);
[[nodiscard]] RunVerb add_files(CLI::App& parser);
[[nodiscard]] RunVerb add_verify(CLI::App& parser);
[[nodiscard]] RunVerb add_prune(CLI::App& parser);
[[nodiscard]] RunVerb add_delete(CLI::App& parser);
[[nodiscard]] RunVerb add_protect(CLI::App& parser);
[[nodiscard]] RunVerb add_unprotect(CLI::App& parser);
[[nodiscard]] RunVerb add_key(CLI::App& parser);
[[nodiscard]] RunVerb add_index(CLI::App& parser);
[[nodiscard]] RunVerb add_boot(CLI::App& parser);
[[nodiscard]] RunVerb add_drill(CLI::App& parser);
[[nodiscard]] RunVerb add_serve(CLI::App& parser);
[[nodiscard]] RunVerb add_mount(CLI::App& parser);
[[nodiscard]] RunVerb add_store(CLI::App& parser);
[[nodiscard]] RunVerb add_quiesce_watch(CLI::App& parser);
[[nodiscard]] RunVerb add_thaw(CLI::App& parser);

}  // namespace stillpoint
