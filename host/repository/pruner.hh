// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/prune-result.hh"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Deletes what no still point needs, while others read and write (docs/repository-format.md, Locking):
///
///     mark -> doom -> write anew what is needed of the doomed -> wait for those who began before -> mark what they
///     have committed -> delete
///
/// Wherever it ends, there is at most more than is needed.
class Pruner {
 public:
  using Load = std::function<Manifest(const std::string& name)>;
  using List = std::function<std::vector<std::string>()>;

  /// `list` and `load`: the still points that there are, and one of them. `lease`: our shared one, to be passed over.
  /// `check_lease` throws when another prune has taken over.
  Pruner(ChunkStore& chunks, List list, Load load, std::string lease, std::function<void()> check_lease);

  /// Throws Corruption with nothing deleted when a manifest or a map cannot be read, for then nobody knows what it
  /// needs; Locked when it is to be tried again.
  ReclaimResult run(const ReclaimOptions& options);

 private:
  /// Bytes of a pack's records.
  struct Use {
    std::uint64_t needed = 0;
    std::uint64_t all = 0;
    std::size_t table = 0;  ///< the last that listed it
    bool several = false;   ///< more than one lists it
    bool keep = false;      ///< it may hold the last copy of something
  };

  void follow(const std::vector<std::string>& names, const std::function<void(const ChunkId&)>& found,
              ReclaimResult& result, const std::stop_token& stop);
  void mark(ReclaimResult& result, const std::stop_token& stop);
  void count();
  [[nodiscard]] std::vector<PackId> candidates(const ReclaimOptions& options, ReclaimResult& result);
  [[nodiscard]] bool stays(const ChunkId& id);
  void vouch_for_copies(const std::vector<PackId>& packs, const std::stop_token& stop);
  [[nodiscard]] std::map<PackId, std::vector<ChunkId>> needed_of(const std::vector<PackId>& packs);
  [[nodiscard]] std::set<std::string> others(const std::stop_token& stop);
  [[nodiscard]] bool wait_for(const std::set<std::string>& before, const ReclaimOptions& options,
                              ReclaimResult& result);
  void rewrite(const std::vector<ChunkId>& ids, const std::stop_token& stop);
  void delete_packs(std::span<const PackId> packs);
  void sweep_quarantine();

  ChunkStore& chunks_;
  List list_;
  Load load_;
  std::string lease_;
  std::function<void()> check_lease_;
  std::set<std::string> seen_;            ///< names and ids of still points that were followed
  std::set<ChunkId> missing_;             ///< that they need, and nobody has
  std::vector<Index::PackInfo> packs_;    ///< when it was marked
  std::vector<std::vector<bool>> marks_;  ///< for each published table and entry: it is needed
  std::map<PackId, Use> use_;
  bool kept_doomed_ = false;
};

}  // namespace stillpoint
