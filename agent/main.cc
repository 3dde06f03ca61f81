// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/agent-config.hh"
#include "agent/control-socket.hh"
#include "agent/conversation.hh"
#include "agent/port.hh"
#include "agent/still-point.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "config.hh"

#include <CLI/CLI.hpp>
#include <glib-unix.h>
#include <signal.h>

#include <cstdlib>
#include <memory>
#include <string>

using namespace stillpoint;

namespace {

struct Options {
  std::filesystem::path config = std::filesystem::path(STILLPOINT_SYSCONF) / "agent.conf";
  bool check_config = false;
  int channel_fd = -1;
};

void apply_test_switches(AgentConfig& config) {
  const char* value = std::getenv("STILLPOINT_TEST_NO_BARRIER");
  if (value == nullptr) return;
  config.hold_writers = false;
  config.conceal_open_barrier = std::string_view(value) == "lie";
  log_warning("STILLPOINT_TEST_NO_BARRIER is set: writers are not held, and no dump will be exact");
}

/// Stops the loop when everything is let go; a second signal stops it at once.
gboolean terminate(gpointer stop) {
  (*static_cast<std::function<void()>*>(stop))();
  return G_SOURCE_CONTINUE;
}

void serve(const AgentConfig& config, UniqueFd channel) {
  const CPtr<GMainLoop, g_main_loop_unref> loop(g_main_loop_new(nullptr, FALSE));
  StillPoint still_point(config);
  std::unique_ptr<Port> port;
  Conversation conversation(
      still_point, {[&](std::string frame) { port->send(std::move(frame)); }, [&] { return port->has_room(); }});
  Port::Events events{[&](std::span<const std::byte> bytes) { conversation.received(bytes); },
                      [&] { conversation.has_room(); }, [&] { conversation.disconnected(); }};
  if (channel)
    port = std::make_unique<Port>(std::move(channel), std::move(events));
  else
    port = std::make_unique<Port>(std::string(protocol::port_name), std::move(events));
  const ControlSocket control(config.control_socket, still_point);

  bool stopping = false;
  std::function<void()> stop = [&] {
    if (stopping) return g_main_loop_quit(loop.get());
    stopping = true;
    still_point.finish([&](const std::string&) { g_main_loop_quit(loop.get()); });
  };
  for (const int number : {SIGTERM, SIGINT})
    g_unix_signal_add(number, terminate, &stop);
  log_info("stillpoint-agent {} is ready", STILLPOINT_VERSION);
  g_main_loop_run(loop.get());
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"The agent of Stillpoint: quiesces the databases of this guest when the hypervisor asks for it."};
  app.set_version_flag("--version", STILLPOINT_VERSION);
  app.add_option("--config", options.config, "configuration file")->capture_default_str();
  app.add_flag("--check-config", options.check_config, "read the configuration, say whether it is right, and end");
  app.add_option("--channel-fd", options.channel_fd, "a connected socket instead of the virtio port")->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  AgentConfig config = load_agent_config(options.config);
  if (options.check_config) {
    log_info("{} is right", options.config.native());
    return 0;
  }
  ::signal(SIGPIPE, SIG_IGN);
  apply_test_switches(config);
  serve(config, UniqueFd(options.channel_fd));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& e) {
    log_error("{}", e.what());
    if (!e.hint().empty()) log_info("  {}", e.hint());
    return static_cast<int>(e.exit_code());
  } catch (const std::exception& e) {
    log_error("{}", e.what());
    return static_cast<int>(ExitCode::failure);
  }
}
