// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace stillpoint {

/// A pool's, or a namespace's, objects.
class RadosPool {
 public:
  virtual ~RadosPool() = default;
};

}  // namespace stillpoint
