// SPDX-License-Identifier: LGPL-2.1-or-later
// A small ext4 file system (STILLPOINT_FUZZ_JOURNAL_IMAGE) that was not frozen, with a log in its journal that the
// input makes: blocks with right headers and sequence numbers, so that what lies behind them is reached.
#include "walked-image.hh"

#include <algorithm>
#include <cstring>
#include <span>

using namespace stillpoint;

namespace {

constexpr std::size_t block = 1024;
constexpr std::uint32_t magic = 0xc03b3998;
constexpr std::size_t most_log = 200;  ///< blocks

void put(std::string& image, std::size_t at, std::uint32_t value, std::size_t count = 4) {
  for (std::size_t i = 0; i < count; ++i)
    image[at + i] = static_cast<char>(value >> (8 * (count - 1 - i)));
}

/// Where the journal's superblock lies; its other blocks follow.
std::size_t journal_of(const std::string& image) {
  static constexpr std::string_view super("\xc0\x3b\x39\x98\0\0\0\x04", 8);
  for (std::size_t at = 0; at + block <= image.size(); at += block)
    if (std::string_view(image).substr(at, super.size()) == super) return at;
  std::abort();
}

class Log {
 public:
  Log(std::string& image, std::span<const std::uint8_t> input)
      : image_(image), input_(input), super_(journal_of(image)), at_(super_ + block) {
    image_[1024 + 96] = static_cast<char>(image_[1024 + 96] | 4);  // a journal that must be replayed
    put(image_, super_ + 24, sequence_);
    put(image_, super_ + 28, 1);
  }

  void write() {
    while (!input_.empty() && at_ < super_ + most_log * block) {
      const std::uint8_t kind = byte();
      switch (kind % 8) {
        case 0:
        case 1:
          describe(kind / 8);
          break;
        case 2:
        case 3:
          header(2);
          at_ += block;
          ++sequence_;
          break;
        case 4:
          revoke(kind / 8);
          break;
        case 5:  // the journal's superblock itself: features, where the log begins and ends
          put(image_, super_ + 8 + 4 * (byte() % 20U), byte() * 0x01010101U);
          break;
        default:
          raw();
      }
    }
  }

 private:
  std::uint8_t byte() {
    if (input_.empty()) return 0;
    const std::uint8_t value = input_.front();
    input_ = input_.subspan(1);
    return value;
  }
  std::uint32_t number16() {
    const std::uint32_t low = byte();
    return low | static_cast<std::uint32_t>(byte()) << 8U;
  }
  void header(std::uint32_t type) {
    put(image_, at_, magic);
    put(image_, at_ + 4, type);
    put(image_, at_ + 8, sequence_);
  }
  void describe(unsigned count) {
    header(1);
    const std::size_t descriptor = at_;
    for (unsigned i = 0; i <= count && at_ < super_ + most_log * block; ++i) {
      const std::size_t tag = descriptor + 12 + std::size_t{i} * 8;
      const std::uint32_t number = number16();
      put(image_, tag, number);
      // Without a UUID in between; the last one says so.
      put(image_, tag + 6, (byte() & 1U) | 2U | (i == count ? 8U : 0U), 2);
      at_ += block;
      // What the file system has there, but for some bytes.
      const std::size_t there = std::size_t{number} * block;
      if (there + block <= image_.size()) std::memmove(image_.data() + at_, image_.data() + there, block);
      const std::size_t place = (byte() * 4U) % block;
      put(image_, at_ + place, byte() * 0x01010101U);
    }
    at_ += block;
  }
  void revoke(unsigned count) {
    header(5);
    put(image_, at_ + 12, 16 + 4 * count);
    for (unsigned i = 0; i < count; ++i)
      put(image_, at_ + 16 + std::size_t{i} * 4, number16());
    at_ += block;
  }
  void raw() {
    header(byte());
    const std::size_t count = std::min<std::size_t>(byte(), block - 12);
    const auto part = input_.first(std::min(count, input_.size()));
    std::memcpy(image_.data() + at_ + 12, part.data(), part.size());
    input_ = input_.subspan(part.size());
    at_ += block;
  }

  std::string& image_;
  std::span<const std::uint8_t> input_;
  std::size_t super_;
  std::size_t at_;
  std::uint32_t sequence_ = 1;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string good = image_of("STILLPOINT_FUZZ_JOURNAL_IMAGE");
  std::string image = good;
  Log(image, {data, size}).write();
  walk_image(image);
  return 0;
}
