// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/dump-tool.hh"

#include <fcntl.h>

#include <utility>

namespace stillpoint {

namespace {

constexpr int pipe_bytes = 1 << 20;

}  // namespace

namespace {

RunningDump run_tool(const Program& tool, int lifeline, const char* what) {
  Pipe output = open_pipe("a dump");
  Pipe errors = open_pipe("a dump tool's errors");
  ::fcntl(output.write_end.get(), F_SETPIPE_SZ, pipe_bytes);  // fewer switches; the default will do as well
  ::fcntl(errors.write_end.get(), F_SETFL, O_WRONLY | O_NONBLOCK);
  RunningProgram program(tool, {output.write_end.get(), errors.write_end.get(), lifeline});
  return {std::move(program), std::move(output.read_end), std::move(errors.read_end), what};
}

}  // namespace

RunningDump run_dump_tool(const Program& tool, int lifeline) {
  return run_tool(tool, lifeline, "the dump tool");
}

RunningCheck run_check_tool(const Program& tool) {
  return {run_tool(tool, -1, "the check"), tool.path.filename()};
}

}  // namespace stillpoint
