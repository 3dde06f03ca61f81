// SPDX-License-Identifier: LGPL-2.1-or-later
#include "hooks/site-hooks.hh"

#include "common/errors.hh"

namespace stillpoint {

SiteHookRun run_site_hook(const FoundProgram& hook, const std::string& argument, const Deadline& deadline) {
  SiteHookRun run{hook.path.native(), {}, hook.fault};
  if (!run.failure.empty()) return run;
  const auto begun = SteadyClock::now();
  try {
    RunningProgram program({hook.path, {argument}, own_environment(), {}}, {STDOUT_FILENO, STDERR_FILENO});
    if (program.wait(deadline)) {
      run.failure = describe_status(program.reap());
    } else {
      program.end_group();
      run.failure = "did not end in time";
    }
  } catch (const Error& e) {
    run.failure = e.what();
  }
  run.took = std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun);
  return run;
}

}  // namespace stillpoint
