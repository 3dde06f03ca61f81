// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/posix-acl.hh"

#include "common/errors.hh"

#include <cstdint>

namespace stillpoint {
namespace {

constexpr std::uint32_t stored_version = 1;
constexpr std::uint32_t kernel_version = 2;
constexpr std::uint16_t tag_user = 0x02;
constexpr std::uint16_t tag_group = 0x08;

std::uint32_t take(std::string_view& text, std::size_t count) {
  if (text.size() < count) throw CaptureError("an access control list that is damaged");
  std::uint32_t value = 0;
  for (std::size_t i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(text[i]);
  text.remove_prefix(count);
  return value;
}

void put(std::string& out, std::uint32_t value, int count) {
  for (int i = 0; i < count; ++i)
    out.push_back(static_cast<char>(value >> (8 * i)));
}

}  // namespace

std::string kernel_acl(std::string_view stored) {
  std::string result;
  if (take(stored, 4) != stored_version) throw CaptureError("an access control list of an unknown version");
  put(result, kernel_version, 4);
  while (!stored.empty()) {
    const auto tag = static_cast<std::uint16_t>(take(stored, 2));
    put(result, tag, 2);
    put(result, take(stored, 2), 2);
    // Stored, only named users and groups have an id.
    put(result, tag == tag_user || tag == tag_group ? take(stored, 4) : ~0U, 4);
  }
  return result;
}

}  // namespace stillpoint
