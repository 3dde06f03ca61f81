// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/thaw.hh"

#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/guest/connection.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

namespace stillpoint {

namespace {

constexpr std::chrono::seconds thaw_limit{60};

struct ThawOptions {
  std::string domain;
  bool force = false;
};

/// How many file systems were thawed.
std::uint64_t thaw_domain(const Domain& domain, bool force) {
  if (!domain.running() || (!force && !says_frozen(domain))) return 0;
  const ThawOutcome outcome = thaw_until_sure(domain, Deadline(thaw_limit));
  if (!outcome.thawed)
    throw QuiesceError(fmt::format("{} cannot be thawed: {}", domain.name(), outcome.reason),
                       "the agent in the guest thaws by itself at its deadline; the last resort is virsh reset");
  return outcome.count;
}

ExitCode thaw(const ThawOptions& options, const Invocation& invocation) {
  Connection libvirt(invocation.libvirt_uri);
  const Domain domain = libvirt.domain(options.domain);
  const std::uint64_t count = thaw_domain(domain, options.force);
  if (invocation.json)
    print_json({{"domain", domain.name()}, {"thawed", count}});
  else if (count == 0)
    print_result(fmt::format("{} was not frozen\n", printable(domain.name())));
  else
    print_result(fmt::format("thawed {} file systems of {}\n", count, printable(domain.name())));
  return ExitCode::success;
}

}  // namespace

RunVerb add_thaw(CLI::App& parser) {
  const auto options = std::make_shared<ThawOptions>();
  parser.add_option("DOMAIN", options->domain, "the domain's name")->required();
  parser.add_flag("--force", options->force, "thaw whatever the guest says: a restarted qemu-ga has forgotten");
  return [options](const Invocation& invocation) { return thaw(*options, invocation); };
}

}  // namespace stillpoint
