// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"
#include "host/commands/disk-choice.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/served-disk.hh"
#include "host/restore/disk-server.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <memory>

namespace stillpoint {

namespace {

struct ServeOptions {
  std::string name;
  std::string disk;
  std::string socket;
  std::string tcp;
};

ServingPlace place_of(const ServeOptions& options) {
  ServingPlace place;
  if (options.socket.empty() == options.tcp.empty())
    throw UsageError("where to serve it must be said", "use --socket PATH or --tcp [ADDRESS:]PORT");
  if (!options.socket.empty()) {
    constexpr std::size_t longest = 107;  // bytes of sockaddr_un's path
    place.socket = std::filesystem::absolute(options.socket);
    if (place.socket.native().size() > longest)
      throw UsageError(fmt::format("the socket's path is longer than {} bytes", longest));
    if (std::filesystem::exists(std::filesystem::symlink_status(place.socket)))
      throw UsageError(fmt::format("{} is there already", printable(options.socket)),
                       "if nobody serves there any more, delete it");
    return place;
  }
  // Whoever reaches the port can read the disk: another address than our own must be meant.
  const std::size_t colon = options.tcp.rfind(':');
  place.address = colon == std::string::npos ? "127.0.0.1" : options.tcp.substr(0, colon);
  const std::string_view port = std::string_view(options.tcp).substr(colon == std::string::npos ? 0 : colon + 1);
  const auto [end, failure] = std::from_chars(port.data(), port.data() + port.size(), place.port);
  if (failure != std::errc() || end != port.data() + port.size() || place.port == 0 || place.address.empty())
    throw UsageError(fmt::format("'{}' is no port", printable(options.tcp)), "write it as 10809 or 192.0.2.7:10809");
  return place;
}

ExitCode serve(const ServeOptions& options, const Invocation& invocation) {
  const ServingPlace place = place_of(options);
  auto [disk, manifest] = open_to_serve(invocation, options.name);
  disk.disk = choose_disk(manifest, options.disk).target;
  DiskServer server(disk, place);
  if (invocation.json)
    print_json({{"name", disk.name}, {"disk", disk.disk}, {"uri", nbd_uri(place)}});
  else
    print_result(fmt::format("{} of {} is served read-only at {}\n", printable(disk.disk), printable(disk.name),
                             printable(nbd_uri(place))));
  server.wait(invocation.stop);
  return ExitCode::success;
}

}  // namespace

RunVerb add_serve(CLI::App& parser) {
  const auto options = std::make_shared<ServeOptions>();
  parser.add_option("NAME", options->name, "a still point, DOMAIN@latest or DOMAIN")->required();
  parser.add_option("--disk", options->disk, "the disk, where there are several")->type_name("vda");
  parser.add_option("--socket", options->socket, "listen on a Unix socket")->type_name("PATH");
  parser.add_option("--tcp", options->tcp, "listen on a port, of 127.0.0.1 when no address is named")
      ->type_name("[ADDRESS:]PORT");
  parser.footer("Serves until it is interrupted. Any NBD client reads it: qemu-img, nbdcopy, qemu-nbd, a guest.");
  return [options](const Invocation& invocation) { return serve(*options, invocation); };
}

}  // namespace stillpoint
