// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rados-pool.hh"

namespace stillpoint {
namespace {

class Pool : public RadosPool {
 public:
  explicit Pool(PoolContext context) : context_(std::move(context)) {}

 private:
  PoolContext context_;
};

}  // namespace

std::unique_ptr<RadosPool> make_rados_pool(PoolContext context) {
  return std::make_unique<Pool>(std::move(context));
}

}  // namespace stillpoint
