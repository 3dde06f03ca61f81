// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace stillpoint {

/// How a Ceph cluster is reached, and how new images in it are laid out, as the command line says.
struct RbdOptions {
  std::string conf;
  std::string user;
  std::string object_size;
  std::string stripe_unit;
  std::uint64_t stripe_count = 0;
  std::vector<std::string> features;
  std::string data_pool;

  /// Whether anything is said of the layout.
  [[nodiscard]] bool has_layout() const noexcept {
    return !object_size.empty() || !stripe_unit.empty() || stripe_count != 0 || !features.empty() || !data_pool.empty();
  }
  [[nodiscard]] CephAddress address() const;
  /// Without a size and without what is not said: completed() adds that. Throws UsageError.
  [[nodiscard]] RbdLayout layout() const;
};

void add_ceph_options(CLI::App& parser, RbdOptions& options);
void add_rbd_layout_options(CLI::App& parser, RbdOptions& options);

/// The ceph.conf that is used when an address names none: for those who are to find the same cluster later.
[[nodiscard]] std::string conf_in_use(const CephAddress& address);

}  // namespace stillpoint
