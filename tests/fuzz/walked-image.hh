// SPDX-License-Identifier: LGPL-2.1-or-later
// A small ext4 file system, walked as the worker does it, and what it sends is read as the companion does it.
#pragma once

#include "common/errors.hh"
#include "common/file.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/block-service.hh"
#include "host/capture/worker/ext-walk.hh"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

// Of libext2fs, when it gives up: the worker ends then. It may ask for much, too, and is given none.
extern "C" const char* __asan_default_options() {
  return "detect_leaks=0:allocator_may_return_null=1";
}

namespace stillpoint {

/// The content of the file that the variable names.
inline std::string image_of(const char* variable) {
  const char* path = std::getenv(variable);
  if (path == nullptr) std::abort();
  return read_text(path, 64 << 20);
}

inline bool read_all(int fd, char* at, std::size_t count) {
  while (count > 0) {
    const ssize_t n = ::read(fd, at, count);
    if (n <= 0) return false;
    at += n;
    count -= static_cast<std::size_t>(n);
  }
  return true;
}

inline bool write_all_of(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

/// The companion's side, until the walk has ended.
inline void answer(int fd, const std::string& image) {
  for (;;) {
    std::array<char, wire::header_bytes> bytes{};
    if (!read_all(fd, bytes.data(), bytes.size())) return;
    const wire::Header header = wire::parse_header({bytes.data(), bytes.size()});
    std::string payload(header.length, '\0');
    if (!read_all(fd, payload.data(), payload.size())) return;
    wire::Reader reader(payload);
    if (header.type == wire::Type::end) return;
    if (header.type == wire::Type::read) {
      const std::uint64_t offset = reader.u64();
      const std::uint32_t length = reader.u32();
      if (length == 0 || length > wire::max_read || offset > image.size() || length > image.size() - offset)
        std::abort();
      std::array<std::byte, wire::header_bytes> front{};
      wire::write_header(wire::Type::blocks, length, front);
      if (!write_all_of(fd, as_text(front)) || !write_all_of(fd, std::string_view(image).substr(offset, length)))
        return;
    } else if (header.type == wire::Type::entries) {
      // What an honest worker sends is never refused, however damaged its file system is: it has refused that itself.
      wire::ReceivedEntry received;
      while (!reader.empty()) {
        try {
          wire::read_entry(reader, image.size(), received);
        } catch (const CaptureError&) {
          break;
        }
      }
    }
  }
}

inline void walk_image(const std::string& image) {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) std::abort();
  const UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  const std::jthread companion([&] { answer(theirs.get(), image); });
  Parent parent(ours.get());
  // What a journal said is kept for as long as the disk is the same object: it must not be, twice in a row.
  static std::array<std::optional<BlockService>, 2> services;
  static std::size_t turn = 0;
  BlockService& blocks = services[turn++ % services.size()].emplace(parent);
  blocks.set_size(image.size());
  try {
    walk_ext(blocks, parent, 0, image.size(), "", true);
  } catch (const Error&) {
  } catch (const std::bad_alloc&) {
  }
  parent.send(wire::Writer(wire::Type::end).finish());
}

}  // namespace stillpoint
