// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/manifest.hh"

#include "common/errors.hh"
#include "common/protocol.hh"
#include "host/repository/still-point-name.hh"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace stillpoint {

namespace {

constexpr std::uint64_t format_version = 1;
constexpr std::size_t max_text = 64 << 10;
constexpr std::size_t max_xml = 16 << 20;
constexpr std::size_t max_disks = 1024;
constexpr std::size_t max_records = 100000;

std::int64_t count(std::chrono::microseconds time) {
  return time.count();
}

std::chrono::microseconds microseconds(const Json& json, std::string_view field) {
  return std::chrono::microseconds(json_uint_or(json, field, 0));
}

Json map_json(const ChunkId& root, std::uint64_t size) {
  return Json{{"root", to_hex(root)}, {"size", size}};
}

template <typename Map>
Map parse_map(const Json& json) {
  const Json& map = json_object(json, "map");
  return {parse_chunk_id(json_string(map, "root", 64)), json_uint(map, "size")};
}

Json to_json(const RbdLayout& layout) {
  Json json{{"order", layout.order}, {"stripe_unit", layout.stripe_unit}, {"stripe_count", layout.stripe_count}};
  if (layout.features) json["features"] = *layout.features;
  return json;
}

RbdLayout parse_rbd_layout(const Json& json) {
  RbdLayout layout;
  // A hint: whoever uses it knows what an image can be.
  layout.order = static_cast<unsigned>(std::min<std::uint64_t>(json_uint(json, "order"), 64));
  layout.stripe_unit = json_uint(json, "stripe_unit");
  layout.stripe_count = json_uint(json, "stripe_count");
  if (json.contains("features")) layout.features = json_uint(json, "features");
  return layout;
}

Json to_json(const RbdBase& base) {
  Json between = Json::array();
  for (const RbdBase::Range& range : base.between)
    between.push_back({range.offset, range.length});
  return Json{{"cluster", base.cluster},         {"image_id", base.image_id},   {"snapshot", base.snapshot},
              {"snapshot_id", base.snapshot_id}, {"had_older", base.had_older}, {"between", between},
              {"layout", to_json(base.layout)}};
}

RbdBase parse_rbd_base(const Json& json) {
  RbdBase base{json_string(json, "cluster", 64), json_string(json, "image_id", 255), json_string(json, "snapshot", 255),
               json_uint(json, "snapshot_id"), json_bool(json, "had_older")};
  const Json& between = json_array(json, "between", max_rbd_ranges);
  constexpr std::uint64_t most = std::uint64_t{1} << 62;
  for (const Json& range : between) {
    if (!range.is_array() || range.size() != 2 || !range[0].is_number_unsigned() || !range[1].is_number_unsigned())
      throw ProtocolError("a range of an RBD image is none");
    base.between.push_back({range[0].get<std::uint64_t>(), range[1].get<std::uint64_t>()});
    if (base.between.back().offset > most || base.between.back().length > most)
      throw ProtocolError("a range of an RBD image is too long");
  }
  if (json.contains("layout")) base.layout = parse_rbd_layout(json_object(json, "layout"));
  return base;
}

Json to_json(const DiskRecord& disk) {
  Json json{{"target", disk.target},
            {"source", disk.source},
            {"format", disk.format},
            {"map", map_json(disk.map.root, disk.map.size)},
            {"incremental", disk.incremental},
            {"full_reason", disk.full_reason},
            {"read", disk.read},
            {"changed", disk.changed},
            {"stored", disk.stored}};
  if (disk.rbd) json["rbd"] = to_json(*disk.rbd);
  return json;
}

DiskRecord parse_disk(const Json& json) {
  DiskRecord disk;
  disk.target = json_string(json, "target", 255);
  if (disk.target.empty() || disk.target.find('/') != std::string::npos)
    throw ProtocolError("a disk's target is not a name");
  disk.source = json_string_or(json, "source", "", max_text);
  disk.format = json_string_or(json, "format", "", 64);
  disk.map = parse_map<DiskMap>(json);
  disk.incremental = json_bool(json, "incremental");
  disk.full_reason = json_string_or(json, "full_reason", "", max_text);
  disk.read = json_uint_or(json, "read", 0);
  disk.changed = json_uint_or(json, "changed", 0);
  disk.stored = json_uint_or(json, "stored", 0);
  if (json.contains("rbd")) disk.rbd = parse_rbd_base(json_object(json, "rbd"));
  return disk;
}

Json to_json(const DumpRecord& dump) {
  return Json{{"name", dump.name},
              {"map", map_json(dump.map.root, dump.map.size)},
              {"stored", dump.stored},
              {"failure", dump.failure}};
}

DumpRecord parse_dump(const Json& json) {
  DumpRecord dump;
  dump.name = json_string(json, "name", 255);
  if (!protocol::is_dump_name(dump.name)) throw ProtocolError("a dump has a name that is not allowed");
  dump.map = parse_map<StreamMap>(json);
  dump.stored = json_uint_or(json, "stored", 0);
  dump.failure = json_string_or(json, "failure", "", max_text);
  return dump;
}

Json to_json(const TreeRecord& tree) {
  return Json{{"disk", tree.disk},
              {"file_system", tree.file_system},
              {"mount_point", tree.mount_point},
              {"path", tree.path},
              {"entries", tree.entries},
              {"bytes", tree.bytes},
              {"files_written", tree.files_written},
              {"bytes_written", tree.bytes_written},
              {"failure", tree.failure}};
}

/// Trees are below `trees`: a manifest must not lead out of the repository.
bool valid_tree_path(const std::string& text) {
  const std::filesystem::path path(text);
  if (path.is_absolute() || text.find('\0') != std::string::npos) return false;
  for (const std::filesystem::path& part : path)
    if (part == ".." || part == ".") return false;
  return *path.begin() == "trees";
}

TreeRecord parse_tree(const Json& json) {
  TreeRecord tree;
  tree.disk = json_string(json, "disk", 255);
  tree.file_system = json_string_or(json, "file_system", "", 4096);
  tree.mount_point = json_string_or(json, "mount_point", "", 4096);
  tree.path = json_string_or(json, "path", "", 4096);
  if (!tree.path.empty() && !valid_tree_path(tree.path)) throw ProtocolError("a tree's path leads elsewhere");
  tree.entries = json_uint_or(json, "entries", 0);
  tree.bytes = json_uint_or(json, "bytes", 0);
  tree.files_written = json_uint_or(json, "files_written", 0);
  tree.bytes_written = json_uint_or(json, "bytes_written", 0);
  tree.failure = json_string_or(json, "failure", "", max_text);
  return tree;
}

Json to_json(const StateRecord& state) {
  return Json{{"kind", to_string(state.kind)},
              {"name", state.name},
              {"source", state.source},
              {"owner", state.owner},
              {"map", map_json(state.map.root, state.map.size)},
              {"stored", state.stored},
              {"failure", state.failure}};
}

StateRecord::Kind parse_state_kind(std::string_view text) {
  for (const StateRecord::Kind kind : {StateRecord::Kind::nvram, StateRecord::Kind::tpm})
    if (text == to_string(kind)) return kind;
  throw ProtocolError("a domain's state is of an unknown kind");
}

StateRecord parse_state(const Json& json) {
  StateRecord state;
  state.kind = parse_state_kind(json_string(json, "kind", 16));
  state.name = json_string(json, "name", 255);
  if (!is_state_name(state.name)) throw ProtocolError("a file of a domain's state has a name that is not allowed");
  state.source = json_string_or(json, "source", "", max_text);
  state.owner = json_string_or(json, "owner", "", 255);
  state.map = parse_map<StreamMap>(json);
  if (state.map.size > max_state_bytes) throw ProtocolError("a file of a domain's state is too long");
  state.stored = json_uint_or(json, "stored", 0);
  state.failure = json_string_or(json, "failure", "", max_text);
  return state;
}

Json to_json(const WindowRecord& window) {
  return Json{{"total_us", count(window.total)},
              {"freeze_us", count(window.freeze)},
              {"hooks_us", count(window.hooks)},
              {"barrier_us", count(window.barrier)},
              {"disk_snapshots_us", count(window.disk_snapshots)},
              {"thaw_us", count(window.thaw)},
              {"frozen", window.frozen},
              {"thawed", window.thawed}};
}

WindowRecord parse_window(const Json& json) {
  return {microseconds(json, "total_us"),   microseconds(json, "freeze_us"),         microseconds(json, "hooks_us"),
          microseconds(json, "barrier_us"), microseconds(json, "disk_snapshots_us"), microseconds(json, "thaw_us"),
          json_uint_or(json, "frozen", 0),  json_uint_or(json, "thawed", 0)};
}

template <typename Record>
Json list_json(const std::vector<Record>& records) {
  Json list = Json::array();
  for (const Record& record : records)
    list.push_back(to_json(record));
  return list;
}

std::vector<std::string> parse_texts(const Json& json, std::string_view field) {
  std::vector<std::string> texts;
  for (const Json& text : json_array(json, field, max_records)) {
    if (!text.is_string() || text.get_ref<const std::string&>().size() > max_text)
      throw ProtocolError(fmt::format("field '{}' has something else than a short text", field));
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

Manifest parse(const Json& json) {
  if (const std::uint64_t format = json_uint(json, "format"); format != format_version)
    throw ConfigError(fmt::format("a manifest has format {}, this program knows {}", format, format_version),
                      "use the stillpoint that wrote it, or a newer one");
  Manifest manifest;
  manifest.id = json_string(json, "id", 64);
  if (!is_id(manifest.id)) throw ProtocolError("its id is not an id");
  manifest.domain = json_string(json, "domain", 1024);
  static_cast<void>(escape_domain(manifest.domain));
  manifest.domain_uuid = json_string_or(json, "domain_uuid", "", 36);
  if (!manifest.domain_uuid.empty() && manifest.domain_uuid.size() != 36)
    throw ProtocolError("field 'domain_uuid' is not a UUID");
  manifest.name = json_string(json, "name", 2048);
  if (!manifest.name.starts_with(manifest.domain + "@") ||
      !parse_name_time(std::string_view(manifest.name).substr(manifest.domain.size() + 1)))
    throw ProtocolError("its name is not that of a still point of its domain");
  manifest.instant = parse_time(json_string(json, "instant", 40));
  manifest.grade = parse_grade(json_string(json, "grade", 16));
  manifest.grade_reasons = parse_texts(json, "grade_reasons");
  manifest.program_version = json_string_or(json, "program_version", "", 64);
  manifest.domain_xml = json_string_or(json, "domain_xml", "", max_xml);
  manifest.checkpoint = json_string_or(json, "checkpoint", "", 1024);
  manifest.parent = json_string_or(json, "parent", "", 64);
  if (!manifest.parent.empty() && !is_id(manifest.parent)) throw ProtocolError("field 'parent' is not an id");
  manifest.window = parse_window(json_object(json, "window"));
  for (const Json& disk : json_array(json, "disks", max_disks))
    manifest.disks.push_back(parse_disk(disk));
  for (const Json& dump : json_array(json, "dumps", max_records))
    manifest.dumps.push_back(parse_dump(dump));
  for (const Json& tree : json_array(json, "trees", max_records))
    manifest.trees.push_back(parse_tree(tree));
  // Manifests had none in the beginning.
  if (json.contains("state"))
    for (const Json& state : json_array(json, "state", max_state_files))
      manifest.state.push_back(parse_state(state));
  if (json.contains("report") && !json["report"].is_null()) manifest.report = parse_report(json["report"]);
  manifest.warnings = parse_texts(json, "warnings");
  return manifest;
}

}  // namespace

std::string_view to_string(Grade grade) {
  switch (grade) {
    case Grade::application:
      return "application";
    case Grade::filesystem:
      return "filesystem";
    case Grade::crash:
      break;
  }
  return "crash";
}

std::string_view to_string(StateRecord::Kind kind) {
  return kind == StateRecord::Kind::nvram ? "nvram" : "tpm";
}

bool is_state_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name.front() != '.' && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

Grade parse_grade(std::string_view text) {
  if (text == "application") return Grade::application;
  if (text == "filesystem") return Grade::filesystem;
  if (text == "crash") return Grade::crash;
  throw UsageError(fmt::format("'{}' is none of application, filesystem, crash", text));
}

const DiskRecord* disk_record(const Manifest& manifest, std::string_view target) {
  const auto found = std::ranges::find(manifest.disks, target, &DiskRecord::target);
  return found == manifest.disks.end() ? nullptr : &*found;
}

Json to_json(const Manifest& manifest) {
  Json json{{"format", format_version},
            {"id", manifest.id},
            {"domain", manifest.domain},
            {"domain_uuid", manifest.domain_uuid},
            {"name", manifest.name},
            {"instant", format_time_precise(manifest.instant)},
            {"grade", to_string(manifest.grade)},
            {"grade_reasons", manifest.grade_reasons},
            {"program_version", manifest.program_version},
            {"checkpoint", manifest.checkpoint},
            {"parent", manifest.parent},
            {"window", to_json(manifest.window)},
            {"disks", list_json(manifest.disks)},
            {"dumps", list_json(manifest.dumps)},
            {"trees", list_json(manifest.trees)},
            {"state", list_json(manifest.state)}};
  if (manifest.report) json["report"] = to_json(*manifest.report);
  json["warnings"] = manifest.warnings;
  json["domain_xml"] = manifest.domain_xml;
  return json;
}

Manifest parse_manifest(const Json& json) {
  try {
    return parse(json);
  } catch (const ProtocolError& e) {
    throw Corruption(fmt::format("a manifest is not valid: {}", e.what()));
  } catch (const UsageError& e) {
    throw Corruption(fmt::format("a manifest is not valid: {}", e.what()));
  }
}

}  // namespace stillpoint
