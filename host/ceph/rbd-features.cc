// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/ceph/rbd.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace stillpoint {
namespace {

/// The bits are part of Ceph's on-disk format.
struct Feature {
  std::string_view name;
  std::uint64_t bit;
  std::uint64_t needs;
};
constexpr std::array features{Feature{"layering", rbd_layering, 0},
                              Feature{"striping", 2, 0},
                              Feature{"exclusive-lock", rbd_exclusive_lock, 0},
                              Feature{"object-map", 8, rbd_exclusive_lock},
                              Feature{"fast-diff", 16, 8},
                              Feature{"deep-flatten", 32, 0},
                              Feature{"journaling", 64, rbd_exclusive_lock},
                              Feature{"data-pool", 128, 0}};

}  // namespace

std::uint64_t parse_rbd_features(const std::vector<std::string>& names) {
  std::uint64_t bits = 0;
  for (const std::string& name : names) {
    const auto found = std::ranges::find(features, name, &Feature::name);
    if (found == features.end()) {
      std::string known;
      for (const Feature& feature : features)
        known += (known.empty() ? "" : ", ") + std::string(feature.name);
      throw UsageError(fmt::format("RBD images have no feature '{}'", name), "there are " + known);
    }
    bits |= found->bit;
  }
  for (const Feature& feature : features)
    if ((bits & feature.bit) != 0 && (bits & feature.needs) != feature.needs)
      throw UsageError(fmt::format("the feature {} needs {}", feature.name,
                                   std::ranges::find(features, feature.needs, &Feature::bit)->name),
                       "name both");
  return bits;
}

}  // namespace stillpoint
