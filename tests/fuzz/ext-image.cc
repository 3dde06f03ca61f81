// SPDX-License-Identifier: LGPL-2.1-or-later
// A small ext4 file system (STILLPOINT_FUZZ_IMAGE) with bytes of it changed by the input: records of a block's number,
// a place in it and up to eight bytes.
#include "walked-image.hh"

#include <algorithm>
#include <cstring>

using namespace stillpoint;

namespace {

constexpr std::size_t block = 1024;

void damage(std::string& image, const std::uint8_t* data, std::size_t size) {
  const std::size_t blocks = image.size() / block;
  while (size >= 5) {
    const std::size_t number = (data[0] | std::size_t{data[1]} << 8U) % blocks;
    const std::size_t place = (data[2] | std::size_t{data[3]} << 8U) % block;
    const std::size_t count = std::min<std::size_t>({data[4] % 8U + 1, size - 5, block - place});
    std::memcpy(image.data() + number * block + place, data + 5, count);
    data += 5 + count;
    size -= 5 + count;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string good = image_of("STILLPOINT_FUZZ_IMAGE");
  std::string image = good;
  damage(image, data, size);
  walk_image(image);
  return 0;
}
