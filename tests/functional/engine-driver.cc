// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/functional/engine-driver.hh"

#include "common/errors.hh"
#include "common/json.hh"
#include "common/report.hh"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace stillpoint::test {
namespace {

using std::chrono::milliseconds;

/// Reads a dump to its end. Throws CaptureError with the tool's words.
void write_dump(RunningDump dump, const std::string& path) {
  const UniqueFd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  const Deadline deadline(std::chrono::minutes(2));
  std::vector<std::byte> buffer(std::size_t{256} << 10);
  for (;;) {
    const ssize_t n = ::read(dump.output(), buffer.data(), buffer.size());
    if (n > 0) {
      write_all(file.get(), std::span(buffer).first(static_cast<std::size_t>(n)), path);
    } else if (n == 0) {
      break;
    } else if (errno == EAGAIN) {
      if (deadline.passed()) throw CaptureError("the dump does not end");
      pollfd fd{dump.output(), POLLIN, 0};
      ::poll(&fd, 1, deadline.poll_timeout());
    } else if (errno != EINTR) {
      throw_errno<CaptureError>("cannot read the dump");
    }
  }
  const std::string failure = dump.finish(deadline);
  if (!failure.empty()) throw CaptureError(failure);
}

void obey(Engine& engine, const std::string& command, std::istringstream& arguments, Json& answer) {
  long limit = 20000;
  if (command == "dump") {
    std::string name;
    std::string path;
    arguments >> name >> path;
    return write_dump(engine.start_dump(name), path);
  }
  if (command == "check") {
    std::string name;
    std::string path;
    arguments >> name >> path;
    RunningCheck check = engine.start_check(name);
    answer["tool"] = check.tool;
    return write_dump(std::move(check.run), path);
  }
  arguments >> limit;
  const Deadline deadline{milliseconds(limit > 0 ? limit : 20000)};
  if (command == "prepare" || command == "prepare-without-dumps") {
    engine.prepare(command == "prepare", deadline);
  } else if (command == "quiesce") {
    engine.quiesce(deadline);
  } else if (command == "release") {
    engine.release(deadline);
    engine.begin_dumps();
  } else if (command == "report") {
    Report report;
    report.databases = engine.report();
    answer["databases"] = to_json(report)["databases"];
  } else if (command == "finish") {
    engine.finish();
  } else if (command == "cancel") {
    engine.cancel();
  } else {
    throw UsageError("unknown command " + command);
  }
}

}  // namespace

int drive_engine(Discovered found) {
  ::signal(SIGPIPE, SIG_IGN);
  Json sockets = Json::array();
  for (const DatabaseReport& server : found.unusable)
    sockets.push_back(server.instance + ": " + server.reason);
  Json instances = Json::array();
  for (const auto& engine : found.engines)
    instances.push_back(engine->instance());
  std::cout << Json{{"command", "discover"},          {"ok", !found.engines.empty()},
                    {"count", found.engines.size()},  {"instances", std::move(instances)},
                    {"unusable", std::move(sockets)}, {"warnings", found.warnings}}
                   .dump()
            << std::endl;
  if (found.engines.empty()) return 1;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream arguments(line);
    std::string command;
    if (!(arguments >> command)) continue;
    Json answer{{"command", command}, {"ok", true}};
    const auto begun = SteadyClock::now();
    try {
      obey(*found.engines.front(), command, arguments, answer);
    } catch (const std::exception& error) {
      answer["ok"] = false;
      answer["message"] = error.what();
    }
    answer["ms"] = std::chrono::duration<double, std::milli>(SteadyClock::now() - begun).count();
    std::cout << dump_json(answer) << std::endl;
  }
  ::_exit(0);
}

}  // namespace stillpoint::test
