// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/capture/tree-wire.hh"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A path as workers take it, without leading, doubled or trailing slashes. Throws NotFound where a part is "." or
/// "..", or can be no name.
[[nodiscard]] std::string clean_path(std::string_view path);

/// Takes in what a worker sends of a walk, and gives the entries on. As a path is made of those of the directories
/// before it, no entry can lie outside the walk or come before its parent.
class WalkReceiver {
 public:
  /// `start` is the path that was asked for; extents lie inside `disk_size`.
  WalkReceiver(std::string_view start, std::uint64_t disk_size, TreeSink& sink)
      : disk_size_(disk_size), sink_(sink), path_(start) {}

  /// False at the walk's end. Throws NotFound and CaptureError, as the worker says or because of what it says.
  [[nodiscard]] bool take(const wire::Message& message);

 private:
  void place();

  std::uint64_t disk_size_;
  TreeSink& sink_;
  std::string path_;
  std::vector<std::size_t> lengths_;  ///< of the paths of the directories that the next entry may lie in
  bool only_one_ = false;
  wire::ReceivedEntry received_;
};

}  // namespace stillpoint
