// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/key-source.hh"
#include "host/commands/output.hh"
#include "host/commands/table.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

namespace stillpoint {

namespace {

struct KeyRequest {
  std::string new_key_file;
  std::string label;
  std::string id;
};

ExitCode list_keys(const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::read);
  Json rows = Json::array();
  Table table({{"ID"}, {"KIND"}, {"CREATED"}, {"LABEL"}});
  for (const KeyInfo& key : repository.keys()) {
    rows.push_back({{"id", key.id}, {"kind", key.kind}, {"created", key.created}, {"label", key.label}});
    table.add({key.id, key.kind, key.created, std::string(printable(key.label))});
  }
  if (invocation.json)
    print_json(rows);
  else
    print_result(table.text());
  return ExitCode::success;
}

ExitCode add_key(const KeyRequest& request, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::write);
  const std::string id = repository.add_key(
      find_new_key(request.new_key_file, "STILLPOINT_NEW_PASSPHRASE", invocation.stop), request.label);
  if (invocation.json)
    print_json({{"id", id}});
  else
    print_result(fmt::format("key {} opens this repository too\n", id));
  return ExitCode::success;
}

ExitCode remove_key(const KeyRequest& request, const Invocation& invocation) {
  invocation.open(Repository::Mode::write).remove_key(request.id);
  if (invocation.json)
    print_json({{"removed", request.id}});
  else
    print_result(
        fmt::format("key {} is removed; a copy of it, if there is one, still opens what is stored\n", request.id));
  return ExitCode::success;
}

}  // namespace

RunVerb add_key(CLI::App& parser) {
  const auto request = std::make_shared<KeyRequest>();
  parser.require_subcommand(1);
  CLI::App* list = parser.add_subcommand("list", "list the keys that open the repository");
  CLI::App* add = parser.add_subcommand("add", "add a key: a passphrase, or a key file");
  add->add_option("--new-key-file", request->new_key_file, "at least 32 bytes that nobody can guess")
      ->type_name("FILE");
  add->add_option("--label", request->label, "what the list calls it")->type_name("TEXT");
  CLI::App* remove = parser.add_subcommand("remove", "remove a key");
  remove->add_option("ID", request->id, "as listed")->required();
  for (CLI::App* sub : {list, add, remove})
    sub->fallthrough();
  return [request, list, add](const Invocation& invocation) {
    if (list->parsed()) return list_keys(invocation);
    return add->parsed() ? add_key(*request, invocation) : remove_key(*request, invocation);
  };
}

}  // namespace stillpoint
