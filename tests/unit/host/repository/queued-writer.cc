// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/queued-writer.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

using namespace stillpoint;

namespace {

/// What became of an object.
struct Fate {
  std::vector<std::byte> bytes;
  bool committed = false;
  bool dropped = false;
  std::atomic<bool> hold{false};  ///< append() waits while it is set
  std::size_t room = ~std::size_t{0};
};

class Recorder : public ObjectWriter {
 public:
  explicit Recorder(Fate& fate) : fate_(fate) {}
  ~Recorder() override { fate_.dropped = !fate_.committed; }
  void append(std::span<const std::byte> bytes) override {
    while (fate_.hold)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (fate_.bytes.size() + bytes.size() > fate_.room) throw StorageError("no room");
    fate_.bytes.insert(fate_.bytes.end(), bytes.begin(), bytes.end());
  }
  void commit() override { fate_.committed = true; }

 private:
  Fate& fate_;
};

std::vector<std::byte> sample(std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::size_t i = 0; i < length; ++i)
    bytes[i] = static_cast<std::byte>(i * 2654435761U >> 13);
  return bytes;
}

}  // namespace

TEST_CASE("a queued object is what was appended, in order") {
  for (const std::size_t length : {0, 1, 1 << 20, (1 << 20) + 1, 20 << 20}) {
    Fate fate;
    const std::vector<std::byte> bytes = sample(length);
    {
      QueuedWriter writer(std::make_unique<Recorder>(fate));
      std::span<const std::byte> rest(bytes);
      for (std::size_t part = 1; !rest.empty(); part = part * 3 + 1) {
        writer.append(rest.first(std::min(part, rest.size())));
        rest = rest.subspan(std::min(part, rest.size()));
      }
      writer.commit();
    }
    CHECK(fate.committed);
    CHECK((fate.bytes == bytes));
  }
}

TEST_CASE("what fails in the background fails the object") {
  Fate fate;
  fate.room = 3 << 20;
  {
    QueuedWriter writer(std::make_unique<Recorder>(fate));
    const std::vector<std::byte> bytes = sample(2 << 20);
    CHECK_THROWS_AS(
        [&] {
          for (int i = 0; i < 100; ++i)
            writer.append(bytes);
        }(),
        StorageError);
    CHECK_THROWS_AS(writer.commit(), StorageError);
  }
  CHECK(fate.dropped);
  {
    QueuedWriter writer(std::make_unique<Recorder>(fate));
    fate.bytes.clear();
    writer.append(sample((3 << 20) + 1));
    CHECK_THROWS_AS(writer.commit(), StorageError);  // only the last block did not fit
  }
  CHECK(fate.dropped);
}

TEST_CASE("a slow store holds back who writes, and an object that nobody commits is dropped") {
  Fate fate;
  fate.hold = true;
  std::atomic<std::size_t> appended = 0;
  {
    QueuedWriter writer(std::make_unique<Recorder>(fate));
    const std::vector<std::byte> bytes = sample(1 << 20);
    std::jthread release([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      CHECK(appended <= 10);
      fate.hold = false;
    });
    for (; appended < 40; ++appended)
      writer.append(bytes);
    release.join();
  }
  CHECK(fate.dropped);
  CHECK(!fate.committed);
}
