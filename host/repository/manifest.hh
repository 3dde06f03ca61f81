// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/json.hh"
#include "common/report.hh"
#include "host/ceph/rbd.hh"
#include "host/repository/chunk-id.hh"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// How consistent a still point is as a whole; the order is that of the guarantee.
enum class Grade {
  crash,        ///< what a power cut would have left
  filesystem,   ///< file systems frozen, databases not quiesced
  application,  ///< databases quiesced and file systems frozen at the instant
};

[[nodiscard]] std::string_view to_string(Grade grade);
/// Throws UsageError.
[[nodiscard]] Grade parse_grade(std::string_view text);

/// A disk's content: the root of the hash tree over its chunks.
struct DiskMap {
  ChunkId root;
  std::uint64_t size = 0;  ///< bytes of the disk
};

/// A stream's content (a dump): the root of the hash tree over its content-defined chunks.
struct StreamMap {
  ChunkId root;
  std::uint64_t size = 0;  ///< bytes of the stream
};

struct DiskRecord {
  std::string target;  ///< "vda"
  std::string source;  ///< file, device or image name on the hypervisor at the time
  std::string format;  ///< "qcow2", "raw"
  DiskMap map;
  bool incremental = false;
  std::string full_reason;       ///< why it was read in full; empty when incremental
  std::uint64_t read = 0;        ///< bytes read from the disk
  std::uint64_t changed = 0;     ///< bytes said to be changed (incremental) or allocated (full)
  std::uint64_t stored = 0;      ///< bytes that the repository grew by for it
  std::optional<RbdBase> rbd{};  ///< the RBD snapshot that the next incremental starts from
};

struct DumpRecord {
  std::string name;  ///< protocol::is_dump_name
  StreamMap map;
  std::uint64_t stored = 0;  ///< bytes that the repository grew by for it
  std::string failure;       ///< empty when the tool succeeded; otherwise the dump is not listed as usable
};

struct TreeRecord {
  std::string disk;         ///< "vda"
  std::string file_system;  ///< "vda" or "vda1"
  std::string mount_point;  ///< in the guest; empty when unknown
  std::string path;         ///< of the tree's directory, relative to the repository's directory
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;          ///< of regular files, apparent
  std::uint64_t files_written = 0;  ///< regular files whose content was written, the others were linked
  std::uint64_t bytes_written = 0;
  std::string failure;  ///< why there is no tree
};

/// What a domain keeps on the hypervisor beside its disks, written by firmware and guest.
struct StateRecord {
  enum class Kind {
    nvram,  ///< the variables of UEFI firmware
    tpm,    ///< a file of an emulated TPM's state
  };
  Kind kind = Kind::nvram;
  std::string name;    ///< is_state_name: "nvram", or the file's of the TPM, "tpm2-00.permall"
  std::string source;  ///< its path on the hypervisor at the time
  std::string owner;   ///< the user's name there; may be empty
  StreamMap map;
  std::uint64_t stored = 0;  ///< bytes that the repository grew by for it
  std::string failure;       ///< why it is not there
};

[[nodiscard]] std::string_view to_string(StateRecord::Kind kind);
/// Letters, digits and -_. , and no dot in front: it may become a file's name.
[[nodiscard]] bool is_state_name(std::string_view name);
/// Of one file of a domain's state, bytes. That of an ARM virtual machine's firmware is as long as this.
inline constexpr std::uint64_t max_state_bytes = 64 << 20;
/// Files of a domain's state.
inline constexpr std::size_t max_state_files = 16;

/// The freeze window and its parts.
struct WindowRecord {
  std::chrono::microseconds total{0};           ///< from the freeze call to the thaw's return
  std::chrono::microseconds freeze{0};          ///< the freeze call: hooks, barrier, FIFREEZE
  std::chrono::microseconds hooks{0};           ///< of it: site hooks
  std::chrono::microseconds barrier{0};         ///< of it: the databases, from the first lock to the report's fsync
  std::chrono::microseconds disk_snapshots{0};  ///< starting the backup job, RBD and LVM snapshots
  std::chrono::microseconds thaw{0};
  std::uint64_t frozen = 0;  ///< file systems
  std::uint64_t thawed = 0;  ///< file systems
};

/// One still point: written last; until it exists the backup does not.
struct Manifest {
  std::string id;           ///< is_id
  std::string domain;       ///< libvirt's name
  std::string domain_uuid;  ///< 36 characters; empty for an offline image
  std::string name;         ///< "web1@2026-11-22T08:20:11Z"; from Repository::free_name
  WallTime instant{};
  Grade grade = Grade::crash;
  std::vector<std::string> grade_reasons;  ///< why it is not better; empty for application
  std::string program_version;
  std::string domain_xml;
  std::string checkpoint;  ///< libvirt's, that the next incremental starts from; empty when there is none
  std::string parent;      ///< id of the still point that unchanged blocks were taken from
  WindowRecord window;
  std::vector<DiskRecord> disks;
  std::vector<DumpRecord> dumps;
  std::vector<TreeRecord> trees;
  std::vector<StateRecord> state;
  std::optional<Report> report;
  std::vector<std::string> warnings;
};

/// The record of the disk "vda"; null when there is none.
[[nodiscard]] const DiskRecord* disk_record(const Manifest& manifest, std::string_view target);

/// The document as docs/repository-format.md describes it.
[[nodiscard]] Json to_json(const Manifest& manifest);
/// Validates every field and bound: the repository may be damaged. Throws Corruption.
[[nodiscard]] Manifest parse_manifest(const Json& json);

}  // namespace stillpoint
