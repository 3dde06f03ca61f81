// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/json.hh"

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// One thing that a drill has looked at.
struct DrillStep {
  enum class Kind {
    disk,         ///< every chunk of a disk was read
    file_system,  ///< checked by its own program
    guest,        ///< it answered
    database,     ///< it answered
    dump,         ///< a dump of the recovered database was compared with the stored one
    check,        ///< the server's own check of the database
  };
  enum class Outcome {
    passed,
    failed,
    skipped,  ///< it could not be looked at here, or tells nothing
  };
  Kind kind = Kind::guest;
  std::string name;  ///< "vda", "vda1", "web1", a dump's name
  Outcome outcome = Outcome::failed;
  std::string detail;                 ///< what was done, what was found, or why not
  std::chrono::microseconds took{0};  ///< of `guest` and `database`: from the start on until it answered
};

/// A drill of a still point that came to its end.
struct DrillRecord {
  std::string still_point;  ///< its id
  std::string name;         ///< its name
  WallTime at{};            ///< when it began
  bool booted = true;       ///< a guest; otherwise servers of the host
  bool passed = false;
  std::chrono::microseconds took{0};
  std::string program_version;
  std::vector<DrillStep> steps;
};

[[nodiscard]] std::string_view to_string(DrillStep::Kind kind);
[[nodiscard]] std::string_view to_string(DrillStep::Outcome outcome);

/// What is longer than a reader takes is cut.
[[nodiscard]] Json to_json(const DrillRecord& record);
/// Validates every field and bound: the repository may be damaged. Throws Corruption.
[[nodiscard]] DrillRecord parse_drill(const Json& json);

/// "drills/web1/2026-11-22T08:20:11Z_2026-11-29T02:00:00.000000Z": `name` is a still point's in full.
[[nodiscard]] std::string drill_object(std::string_view name, WallTime at);
/// What such an object's name says; the still point's name is empty when it is named otherwise.
struct DrillObject {
  std::string still_point;
  WallTime at{};
};
[[nodiscard]] DrillObject parse_drill_object(std::string_view object);

}  // namespace stillpoint
