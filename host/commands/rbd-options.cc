// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/rbd-options.hh"

#include "common/errors.hh"
#include "host/commands/format.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <bit>
#include <cstdlib>
#include <filesystem>

namespace stillpoint {

CephAddress RbdOptions::address() const {
  return {
      .conf = conf.empty() ? conf : std::filesystem::absolute(conf).native(), .user = user, .key = {}, .monitors = {}};
}

RbdLayout RbdOptions::layout() const {
  RbdLayout layout;
  if (!object_size.empty()) {
    const std::uint64_t bytes = parse_size(object_size);
    if (!std::has_single_bit(bytes) || bytes < 1U << least_rbd_order || bytes > 1U << largest_rbd_order)
      throw UsageError(fmt::format("RBD objects cannot be of {}", printable(object_size)),
                       "--object-size takes a power of two, 4K to 32M");
    layout.order = static_cast<unsigned>(std::countr_zero(bytes));
  }
  if (stripe_unit.empty() != (stripe_count == 0))
    throw UsageError("striping needs both its unit and its count", "give --stripe-unit and --stripe-count");
  if (!stripe_unit.empty()) {
    layout.stripe_unit = parse_size(stripe_unit);
    layout.stripe_count = stripe_count;
    if (layout.stripe_unit == 0)
      throw UsageError("stripes of no bytes are none", "--stripe-unit divides the objects' size");
    if (layout.stripe_count > most_rbd_stripes)
      throw UsageError(fmt::format("stripes go over {} objects at most", most_rbd_stripes), "lower --stripe-count");
    if (layout.order != 0) static_cast<void>(completed(layout, {}));
  }
  if (!features.empty()) layout.features = parse_rbd_features(features);
  layout.data_pool = data_pool;
  return layout;
}

void add_ceph_options(CLI::App& parser, RbdOptions& options) {
  parser.add_option("--ceph-conf", options.conf, "of the cluster ($CEPH_CONF, else /etc/ceph/ceph.conf)")
      ->type_name("FILE");
  parser.add_option("--ceph-user", options.user, "who is let in, without \"client.\" (admin)")->type_name("ID");
}

void add_rbd_layout_options(CLI::App& parser, RbdOptions& options) {
  parser.add_option("--object-size", options.object_size, "of new RBD images (as their disk has it, else 4M)")
      ->type_name("SIZE");
  parser.add_option("--stripe-unit", options.stripe_unit, "stripe them: so many bytes in an object, then in the next")
      ->type_name("SIZE");
  parser.add_option("--stripe-count", options.stripe_count, "over so many objects")->type_name("N");
  parser
      .add_option("--image-feature", options.features,
                  "give them this feature, as rbd(8) names it, and only those named (as their disk has them, else as "
                  "the cluster wants)")
      ->type_name("NAME");
  parser.add_option("--data-pool", options.data_pool, "keep their contents in this pool")->type_name("POOL");
}

std::string conf_in_use(const CephAddress& address) {
  if (!address.conf.empty()) return address.conf;
  const char* const named = std::getenv("CEPH_CONF");
  return named == nullptr || *named == '\0' ? std::string() : std::filesystem::absolute(named).native();
}

}  // namespace stillpoint
