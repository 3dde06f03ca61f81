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

/// layering, striping, exclusive-lock, object-map, fast-diff, deep-flatten.
constexpr std::uint64_t kept_by_copies = 63;
/// Ceph's own, for images of which nothing is said.
constexpr unsigned default_order = 22;

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

RbdLayout completed(RbdLayout wanted, const RbdLayout& source) {
  const auto is_order = [](unsigned order) { return order >= least_rbd_order && order <= largest_rbd_order; };
  if (wanted.order == 0) wanted.order = is_order(source.order) ? source.order : default_order;
  const std::uint64_t object = std::uint64_t{1} << wanted.order;
  // Of an image without stripes librbd tells one stripe as long as an object.
  const bool is_striped = source.stripe_unit != 0 && source.stripe_count > 1 && source.stripe_count <= most_rbd_stripes;
  if (wanted.stripe_count == 0 && is_striped && source.stripe_unit <= object && object % source.stripe_unit == 0) {
    wanted.stripe_unit = source.stripe_unit;
    wanted.stripe_count = source.stripe_count;
  }
  if (wanted.stripe_unit != 0 && object % wanted.stripe_unit != 0)
    throw UsageError(fmt::format("objects of {} bytes have no whole stripes of {}", object, wanted.stripe_unit),
                     "choose --stripe-unit so that it divides --object-size");
  if (!wanted.features && source.features.value_or(0) != 0) wanted.features = *source.features & kept_by_copies;
  return wanted;
}

}  // namespace stillpoint
