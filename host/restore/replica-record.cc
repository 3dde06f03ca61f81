// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/replica-record.hh"

#include "common/errors.hh"
#include "common/json.hh"
#include "common/log.hh"
#include "common/test-pause.hh"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace stillpoint {
namespace {

constexpr const char* mark_key = "stillpoint.replica";
constexpr const char* pending_key = "stillpoint.pending";
constexpr std::string_view record_prefix = "stillpoint.snapshot.";
constexpr std::uint64_t record_version = 1;
constexpr std::size_t longest_record = 64 << 10;

std::string to_text(const ReplicaSnapshot& snapshot) {
  Json json{{"version", record_version},
            {"snapshot", snapshot.snapshot},
            {"snapshot_id", snapshot.snapshot_id},
            {"still_point", snapshot.still_point},
            {"id", snapshot.id},
            {"repository", snapshot.repository},
            {"instant", format_time_precise(snapshot.instant)},
            {"root", to_hex(snapshot.map.root)},
            {"size", snapshot.map.size}};
  if (snapshot.damaged) json["damaged"] = true;
  return dump_json(json);
}

/// Nothing for what we have not written.
std::optional<ReplicaSnapshot> parse_record(const std::string& key, const std::string& text) {
  try {
    const Json json = parse_json(text, key, {.bytes = longest_record});
    if (json_uint(json, "version") != record_version) return std::nullopt;
    ReplicaSnapshot snapshot;
    snapshot.snapshot = json_string(json, "snapshot", 255);
    snapshot.snapshot_id = json_uint(json, "snapshot_id");
    snapshot.still_point = json_string(json, "still_point");
    snapshot.id = json_string(json, "id", 64);
    snapshot.repository = json_string(json, "repository", 64);
    snapshot.instant = parse_time(json_string(json, "instant", 40));
    snapshot.map = {parse_chunk_id(json_string(json, "root", 64)), json_uint(json, "size")};
    snapshot.damaged = json_bool_or(json, "damaged", false);
    return snapshot;
  } catch (const Error& error) {
    log_debug("metadata {}: {}", key, error.what());
    return std::nullopt;
  }
}

const RbdSnapshot* find(const std::vector<RbdSnapshot>& snapshots, const std::string& name) {
  const auto found = std::ranges::find_if(snapshots, [&](const RbdSnapshot& snapshot) {
    return snapshot.kind == RbdSnapshot::Kind::user && snapshot.name == name;
  });
  return found == snapshots.end() ? nullptr : &*found;
}

std::string key_of(const ReplicaSnapshot& snapshot) {
  return std::string(record_prefix) + snapshot.snapshot;
}

}  // namespace

void mark_replica(RbdImage& image, std::string_view domain, std::string_view disk) {
  image.set_metadata(
      mark_key,
      dump_json(Json{{"version", record_version}, {"image_id", image.facts().id}, {"domain", domain}, {"disk", disk}}));
}

std::optional<ReplicaMark> replica_mark(RbdImage& image) {
  const std::map<std::string, std::string> all = image.metadata();
  const auto found = all.find(mark_key);
  if (found == all.end()) return std::nullopt;
  ReplicaMark mark;
  try {
    const Json json = parse_json(found->second, mark_key, {.bytes = longest_record});
    if (json_uint(json, "version") != record_version) throw ProtocolError("it is of another version");
    mark = {json_string(json, "image_id", 255), json_string(json, "domain"), json_string(json, "disk", 255)};
  } catch (const ProtocolError& error) {
    throw CaptureError(
        fmt::format("the mark of RBD image {} cannot be read: {}", to_string(image.place()), error.what()),
        "a newer version may have written it");
  }
  if (mark.image_id != image.facts().id) return std::nullopt;
  return mark;
}

std::vector<ReplicaSnapshot> replica_snapshots(RbdImage& image) {
  std::vector<ReplicaSnapshot> found;
  const std::map<std::string, std::string> all = image.metadata();
  for (const RbdSnapshot& snapshot : image.snapshots()) {
    if (snapshot.kind != RbdSnapshot::Kind::user) continue;
    const auto text = all.find(std::string(record_prefix) + snapshot.name);
    if (text == all.end()) continue;
    const std::optional<ReplicaSnapshot> record = parse_record(text->first, text->second);
    // A name may be taken again, an id is not.
    if (record && record->snapshot == snapshot.name && record->snapshot_id == snapshot.id &&
        record->map.size == snapshot.size)
      found.push_back(*record);
  }
  return found;
}

void take_replica_snapshot(RbdImage& image, RbdLock& lock, ReplicaSnapshot snapshot) {
  snapshot.snapshot_id = 0;
  image.set_metadata(pending_key, to_text(snapshot));
  pause_for_test("replica-pending");
  lock.check();
  image.create_snapshot(snapshot.snapshot);
  pause_for_test("replica-snapshot");
  resume_snapshot(image);
}

void resume_snapshot(RbdImage& image) {
  const std::map<std::string, std::string> all = image.metadata();
  const std::vector<RbdSnapshot> snapshots = image.snapshots();
  if (const auto pending = all.find(pending_key); pending != all.end()) {
    std::optional<ReplicaSnapshot> record = parse_record(pending->first, pending->second);
    const RbdSnapshot* const taken = record ? find(snapshots, record->snapshot) : nullptr;
    if (taken != nullptr && taken->size == record->map.size) {
      record->snapshot_id = taken->id;
      image.set_metadata(key_of(*record), to_text(*record));
    }
    image.remove_metadata(pending_key);
  }
  for (const auto& [key, text] : all)
    if (key.starts_with(record_prefix) && find(snapshots, key.substr(record_prefix.size())) == nullptr)
      image.remove_metadata(key);
}

void record_damage(RbdImage& image, ReplicaSnapshot snapshot, bool damaged) {
  snapshot.damaged = damaged;
  image.set_metadata(key_of(snapshot), to_text(snapshot));
}

void remove_replica_snapshot(RbdImage& image, const ReplicaSnapshot& snapshot) {
  image.remove_snapshot(snapshot.snapshot);
  image.remove_metadata(key_of(snapshot));
}

}  // namespace stillpoint
