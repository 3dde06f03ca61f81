// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace stillpoint {

/// Takes what differs without telling anything out of a dump: the values of sequences and AUTO_INCREMENT, which belong
/// to no database snapshot, the random key of pg_dump's \restrict, and the comments that name the programs' releases.
/// Bounded in memory, whatever the dump holds.
class ComparableDump {
 public:
  using Take = std::function<void(std::string_view)>;
  explicit ComparableDump(Take take) : take_(std::move(take)) {}

  void write(std::string_view bytes);
  /// After the last byte.
  void end();

 private:
  void end_line(std::string_view newline);

  Take take_;
  std::string line_;      ///< the present line, while it is short enough to be one of those
  bool through_ = false;  ///< the present line is none of those: the rest of it goes through
};

}  // namespace stillpoint
