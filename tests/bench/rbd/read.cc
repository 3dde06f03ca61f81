// SPDX-License-Identifier: LGPL-2.1-or-later
// What reading an RBD image costs by itself: the companion's way from librbd to a chunk's id, and then it is dropped.
// bench-rbd-read CONF POOL/IMAGE [SNAPSHOT-ID]
#include "common/errors.hh"
#include "common/log.hh"
#include "host/capture/disk-capture.hh"
#include "host/capture/rbd-disk.hh"
#include "host/ceph/cluster.hh"
#include "host/repository/buffer-pool.hh"
#include "host/repository/checksum.hh"
#include "host/repository/crew.hh"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using namespace stillpoint;

namespace {

constexpr std::uint32_t chunk_bytes = 256 << 10;
constexpr std::size_t buffers = 64;

class HashingSink : public ChunkSink {
 public:
  explicit HashingSink(std::uint64_t size) : size_(size) {}

  std::uint32_t chunk_size() const override { return chunk_bytes; }
  ChunkBuffer acquire(std::uint64_t number) override {
    return pool_.acquire(std::min<std::uint64_t>(chunk_bytes, size_ - number * chunk_bytes));
  }
  void submit(std::uint64_t /*number*/, ChunkBuffer buffer) override {
    pool_.hand_over(buffer);
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back(std::move(buffer));
    }
    crew_.post(std::make_unique<Hashing>(*this));
  }
  void submit_zero(std::uint64_t /*first*/, std::uint64_t /*count*/) override {}

 private:
  /// Two chunks at once, as the repository does.
  class Hashing : public Job {
   public:
    explicit Hashing(HashingSink& sink) : sink_(sink) {}
    void run() noexcept override {
      thread_local ChunkHasher hash;
      std::vector<ChunkBuffer> taken = sink_.take();
      std::erase_if(taken, [](const ChunkBuffer& one) { return is_zero(one.bytes()); });
      if (taken.size() == 2)
        static_cast<void>(hash(taken[0].bytes(), taken[1].bytes()));
      else if (!taken.empty())
        static_cast<void>(hash(taken[0].bytes()));
    }

   private:
    HashingSink& sink_;
  };

  std::vector<ChunkBuffer> take() {
    const std::lock_guard lock(mutex_);
    std::vector<ChunkBuffer> taken;
    while (taken.size() < 2 && !waiting_.empty()) {
      taken.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    return taken;
  }

  std::uint64_t size_;
  BufferPool pool_{chunk_bytes, buffers};
  std::mutex mutex_;
  std::deque<ChunkBuffer> waiting_;
  Crew crew_;  ///< ends before what its jobs use
};

class NoProgress : public CaptureProgress {
 public:
  void advance(std::uint64_t /*done*/, std::uint64_t /*total*/) override {}
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return 2;
  try {
    const RbdPlace place = parse_rbd_place(argv[2]);
    const auto cluster = connect_ceph({.conf = argv[1]});
    RbdDisk disk(cluster->rbd_pool(place.pool, place.name_space)->open(place.image, RbdAccess::read),
                 argc == 4 ? std::stoull(argv[3]) : 0);
    HashingSink sink(disk.size());
    NoProgress progress;
    std::printf("%llu\n", static_cast<unsigned long long>(capture_disk(disk, false, sink, progress, {}).read));
    return 0;
  } catch (const std::exception& error) {
    log_error("{}", error.what());
    return 1;
  }
}
