// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/task-group.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

using namespace stillpoint;

namespace {

/// Ends when the token is stopped, and by nothing else.
void wait_for_stop(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any condition;
  std::unique_lock lock(mutex);
  condition.wait(lock, stop, [] { return false; });
  throw Interrupted("stopped");
}

}  // namespace

TEST_CASE("all tasks succeed together") {
  std::atomic<int> done = 0;
  const std::stop_source never;
  TaskGroup tasks(never.get_token());
  for (int i = 0; i < 5; ++i)
    tasks.run([&](const std::stop_token&) { ++done; });
  tasks.wait();
  CHECK(done == 5);
}

TEST_CASE("the first failure stops the others and is the one that is thrown") {
  const std::stop_source never;
  TaskGroup tasks(never.get_token());
  tasks.run([](const std::stop_token& stop) { wait_for_stop(stop); });
  tasks.run([](const std::stop_token&) { throw StorageError("full"); });
  CHECK_THROWS_AS(tasks.wait(), StorageError);
}

TEST_CASE("a stop from outside and the end of the scope stop them too") {
  std::stop_source outer;
  {
    TaskGroup tasks(outer.get_token());
    tasks.run([](const std::stop_token& stop) { wait_for_stop(stop); });
    outer.request_stop();
    CHECK_THROWS_AS(tasks.wait(), Interrupted);
  }
  TaskGroup abandoned{std::stop_token()};
  abandoned.run([](const std::stop_token& stop) { wait_for_stop(stop); });
}
