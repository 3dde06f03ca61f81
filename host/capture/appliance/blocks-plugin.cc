// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-wire.hh"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <span>
#include <string_view>
#include <vector>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

// One socket for all: a request is answered before the next one is sent.
#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_ALL_REQUESTS

/// Disks for an appliance: export "0" is the first of disks=SIZE,SIZE,... Blocks are asked for over descriptor fd=N,
/// from the companion, which has the disks one after the other.
namespace {

using namespace stillpoint;

struct Export {
  std::uint64_t begin = 0;
  std::uint64_t size = 0;
};

int blocks_fd = -1;
std::vector<Export> exports;

bool number_of(std::string_view text, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

int configure(const char* key, const char* value) {
  const std::string_view name = key;
  std::string_view rest = value;
  std::uint64_t number = 0;
  if (name == "fd" && number_of(rest, number) && number < 1024) {
    blocks_fd = static_cast<int>(number);
    return 0;
  }
  if (name == "disks") {
    std::uint64_t begin = 0;
    while (!rest.empty()) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      if (!number_of(rest.substr(0, comma), number)) break;
      exports.push_back({begin, number});
      begin += number;
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    if (rest.empty()) return 0;
  }
  nbdkit_error("bad parameter '%s'", key);
  return -1;
}

void* open_export(int /*read_only*/) {
  std::uint64_t number = 0;
  const char* name = nbdkit_export_name();
  if (name != nullptr && number_of(name, number) && number < exports.size()) return &exports[number];
  nbdkit_error("there is no such export");
  return nullptr;
}

std::int64_t size(void* connection) {
  return static_cast<std::int64_t>(static_cast<Export*>(connection)->size);
}

bool send_all(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(blocks_fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

bool receive_all(std::span<char> buffer) {
  while (!buffer.empty()) {
    const ssize_t n = ::read(blocks_fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    buffer = buffer.subspan(static_cast<std::size_t>(n));
  }
  return true;
}

bool fetch(std::span<char> buffer, std::uint64_t offset) {
  wire::Writer request(wire::Type::read);
  request.u64(offset);
  request.u32(static_cast<std::uint32_t>(buffer.size()));
  std::array<char, wire::header_bytes> bytes{};
  if (!send_all(request.finish()) || !receive_all(bytes)) return false;
  const wire::Header header = wire::parse_header({bytes.data(), bytes.size()});
  return header.type == wire::Type::blocks && header.length == buffer.size() && receive_all(buffer);
}

int read(void* connection, void* buffer, std::uint32_t count, std::uint64_t offset, std::uint32_t /*flags*/) {
  std::span<char> rest(static_cast<char*>(buffer), count);
  offset += static_cast<Export*>(connection)->begin;
  try {
    while (!rest.empty()) {
      const auto piece = rest.first(std::min(rest.size(), wire::max_read));
      if (!fetch(piece, offset)) {
        // What went wrong is the companion's to say: it ends us.
        nbdkit_set_error(EIO);
        return -1;
      }
      rest = rest.subspan(piece.size());
      offset += piece.size();
    }
    return 0;
  } catch (const std::exception& error) {
    nbdkit_error("%s", error.what());
    nbdkit_set_error(EIO);
    return -1;
  }
}

nbdkit_plugin make_plugin() {
  nbdkit_plugin made{};
  made.name = "stillpoint-blocks";
  made.version = "1";
  made.config = configure;
  made.open = open_export;
  made.get_size = size;
  made.pread = read;
  return made;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
