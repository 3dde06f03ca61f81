// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/test-pause.hh"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace stillpoint {

void pause_for_test(std::string_view state) noexcept {
  static const char* const directory = std::getenv("STILLPOINT_TEST_PAUSE");
  if (directory == nullptr) return;
  // Nothing is allocated: the agent pauses while file systems are about to be frozen.
  char asked[256];
  char reached[256];
  const int length = static_cast<int>(state.size());
  std::snprintf(asked, sizeof asked, "%s/%.*s", directory, length, state.data());
  std::snprintf(reached, sizeof reached, "%s/%.*s.reached", directory, length, state.data());
  if (std::rename(asked, reached) != 0) return;
  for (int i = 0; i < 3000 && ::access(reached, F_OK) == 0; ++i)
    ::usleep(10000);
}

}  // namespace stillpoint
