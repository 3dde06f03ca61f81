// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/dump-choice.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

std::string names_of(const std::vector<const DumpRecord*>& dumps) {
  std::string names;
  for (const DumpRecord* dump : dumps)
    names += (names.empty() ? "" : ", ") + dump->name;
  return names;
}

bool is_of(const Manifest& manifest, const DumpRecord& dump, std::string_view database) {
  const DatabaseReport* reported = database_of(manifest, dump.name);
  if (reported != nullptr && !reported->database.empty()) return reported->database == database;
  return std::string_view(dump.name).substr(dump.name.rfind('/') + 1) == database;
}

}  // namespace

const DatabaseReport* database_of(const Manifest& manifest, std::string_view dump) {
  if (!manifest.report) return nullptr;
  const auto& databases = manifest.report->databases;
  const auto it =
      std::find_if(databases.begin(), databases.end(), [&](const DatabaseReport& d) { return d.dump == dump; });
  return it == databases.end() ? nullptr : &*it;
}

const DumpRecord& choose_dump(const Manifest& manifest, std::string_view text) {
  std::vector<const DumpRecord*> found;
  std::vector<const DumpRecord*> all;
  for (const DumpRecord& dump : manifest.dumps) {
    all.push_back(&dump);
    if (dump.name == text) {
      found = {&dump};
      break;
    }
    if (is_of(manifest, dump, text)) found.push_back(&dump);
  }
  if (found.empty())
    throw NotFound(fmt::format("{} has no dump '{}'", manifest.name, text),
                   all.empty() ? "it has no dumps at all: its grade says why" : "its dumps are " + names_of(all));
  if (found.size() > 1)
    throw UsageError(fmt::format("'{}' is the name of {} databases", text, found.size()),
                     "say which one: " + names_of(found));
  const DumpRecord& dump = *found.front();
  if (!dump.failure.empty())
    throw NotFound(fmt::format("dump {} failed when {} was taken: {}", dump.name, manifest.name, dump.failure),
                   "take it from another still point, or recover the database from a restored disk");
  return dump;
}

}  // namespace stillpoint
