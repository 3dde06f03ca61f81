// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/rbd-writer.hh"

#include "host/restore/disk-pieces.hh"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace stillpoint {
namespace {

/// Longer than the cluster's own limit for a request.
constexpr std::chrono::seconds image_write_limit{180};
/// Zeroing an image's objects is a request for each of them.
constexpr std::uint64_t zero_window = std::uint64_t{1} << 30;
constexpr std::uint64_t most_zeroed_at_once = std::uint64_t{64} << 20;
constexpr std::size_t most_zero_requests = 8;

/// Until no more than so many requests are on their way.
void wait_for(RbdImage& image, std::size_t requests) {
  while (image.in_flight() > requests)
    if (!image.next(image_write_limit))
      throw Unreachable(fmt::format("the cluster does not write RBD image {}", to_string(image.place())),
                        look_at_cluster);
}

void zero_what_is_there(RbdImage& image, std::uint64_t begin, std::uint64_t end) {
  while (begin < end) {
    const std::uint64_t part = std::min(end - begin, most_zeroed_at_once);
    image.start_zero(begin, part, 0);
    begin += part;
    wait_for(image, most_zero_requests);
  }
}

}  // namespace

void write_to_rbd(RbdImage& image, std::span<const DiskTarget::Piece> pieces, bool sparse) {
  const auto send = [&image](const DiskTarget::Piece& part) { image.start_write(part.bytes, part.offset, 0); };
  try {
    for (const DiskTarget::Piece& piece : joined(pieces))
      if (sparse)
        without_zeros(piece, send);
      else
        send(piece);
    wait_for(image, 0);
  } catch (...) {
    image.drain();  // the bytes are the caller's
    throw;
  }
}

void zero_in_rbd(RbdImage& image, std::uint64_t offset, std::uint64_t length) {
  for (std::uint64_t at = offset, end = offset + length; at < end;) {
    const std::uint64_t part = std::min(end - at, zero_window);
    for (const RbdChange& there : image.changed("", at, part, true))
      if (there.exists)
        zero_what_is_there(image, std::max(at, there.offset), std::min(at + part, there.offset + there.length));
    at += part;
  }
  wait_for(image, 0);
}

}  // namespace stillpoint
