// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/capture-state.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/capture/state-file.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

using Kind = StateRecord::Kind;

/// libtpms' own files are some kilobytes.
constexpr std::uint64_t max_tpm_bytes = 4 << 20;
constexpr std::size_t max_tpm_files = 8;

void add(CapturedState& state, Kind kind, std::string name, StateFile file) {
  state.records.push_back({.kind = kind,
                           .name = std::move(name),
                           .source = file.path.native(),
                           .owner = std::move(file.owner),
                           .map = {},
                           .stored = 0,
                           .failure = {}});
  state.contents.push_back(std::move(file.content));
}

void add_failure(CapturedState& state, Kind kind, const std::filesystem::path& path, const std::string& why) {
  add(state, kind, std::string(to_string(kind)), {path, {}, {}});
  state.records.back().failure = why;
}

void read_nvram(const std::filesystem::path& path, bool running, CapturedState& state) {
  try {
    if (std::optional<StateFile> file = read_state_file(path, max_state_bytes))
      add(state, Kind::nvram, "nvram", std::move(*file));
    else if (running)
      add_failure(state, Kind::nvram, path, fmt::format("there is no {}", path.native()));
  } catch (const CaptureError& error) {
    add_failure(state, Kind::nvram, path, error.what());
  }
}

void read_tpm(const std::filesystem::path& directory, bool running, CapturedState& state) {
  try {
    // What lasts: a file of its volatile state is there only while its domain is saved.
    std::vector<StateFile> files = read_state_files(directory, "tpm", ".permall", max_tpm_files, max_tpm_bytes);
    if (files.empty() && running)
      add_failure(state, Kind::tpm, directory, fmt::format("there is nothing in {}", directory.native()));
    for (StateFile& file : files) {
      std::string name = file.path.filename().native();
      if (!is_state_name(name)) throw CaptureError(fmt::format("{} has an unusual name", file.path.native()));
      add(state, Kind::tpm, std::move(name), std::move(file));
    }
  } catch (const CaptureError& error) {
    add_failure(state, Kind::tpm, directory, error.what());
  }
}

}  // namespace

CapturedState read_state(const StatePlaces& places, bool running) {
  CapturedState state;
  // A domain that never ran has none yet.
  if (!places.nvram.empty()) read_nvram(places.nvram, running, state);
  if (!places.tpm.empty()) read_tpm(places.tpm, running, state);
  for (const std::string& what : places.left_out)
    state.warnings.push_back("left out: " + what);
  return state;
}

void store_state(Repository& repository, CapturedState state, Manifest& manifest) {
  for (std::size_t i = 0; i < state.records.size(); ++i) {
    StateRecord& record = state.records[i];
    if (record.failure.empty()) {
      const std::unique_ptr<DumpWriter> writer = repository.write_dump();
      writer->write(as_bytes(state.contents[i]));
      record.map = writer->finish();
      record.stored = writer->counts().stored;
    }
    manifest.state.push_back(std::move(record));
  }
  for (std::string& warning : state.warnings)
    manifest.warnings.push_back(std::move(warning));
}

}  // namespace stillpoint
