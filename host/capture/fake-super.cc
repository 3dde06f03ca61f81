// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/fake-super.hh"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace stillpoint::fake_super {
namespace {

constexpr std::string_view prefix = "user.rsync.";
constexpr std::uint32_t absent = 0x80;  // of an entry that the list does not have
constexpr std::uint32_t named_user = 1U << 31;

/// An access control list as setxattr(2) takes it.
struct Acl {
  std::uint32_t user = absent;
  std::uint32_t group = absent;
  std::uint32_t mask = absent;
  std::uint32_t other = absent;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> names;  ///< id, permissions
};

std::uint32_t number(std::string_view bytes, std::size_t at, std::size_t count) {
  std::uint32_t value = 0;
  for (std::size_t i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

std::optional<Acl> parse(std::string_view kernel) {
  if (kernel.size() < 4 || kernel.size() % 8 != 4 || number(kernel, 0, 4) != 2) return std::nullopt;
  Acl acl;
  for (std::size_t at = 4; at < kernel.size(); at += 8) {
    const std::uint32_t permissions = number(kernel, at + 2, 2) & 7U;
    const std::uint32_t id = number(kernel, at + 4, 4);
    switch (number(kernel, at, 2)) {
      case 0x01:
        acl.user = permissions;
        break;
      case 0x02:
        acl.names.emplace_back(id, permissions | named_user);
        break;
      case 0x04:
        acl.group = permissions;
        break;
      case 0x08:
        acl.names.emplace_back(id, permissions);
        break;
      case 0x10:
        acl.mask = permissions;
        break;
      case 0x20:
        acl.other = permissions;
        break;
      default:
        return std::nullopt;
    }
  }
  return acl;
}

/// Without what the mode says too.
void strip(Acl& acl, std::uint32_t mode) {
  const std::uint32_t group_bits = mode >> 3 & 7U;
  acl.user = acl.other = absent;
  if (acl.mask == absent || acl.group == group_bits) acl.group = absent;
  // Where names are listed the mask is filled in from the mode again: what is left of it is the mode's.
  if (!acl.names.empty() && acl.mask == absent) acl.mask = group_bits;
}

std::string text_of(const Acl& acl) {
  std::string text;
  const auto put = [&text](std::uint32_t value) {
    for (int i = 0; i < 4; ++i)
      text.push_back(static_cast<char>(value >> (8 * i)));
  };
  for (const std::uint32_t value : {acl.user, acl.group, acl.mask, acl.other})
    put(value);
  for (const auto& [id, permissions] : acl.names) {
    put(id);
    put(permissions);
  }
  return text;
}

}  // namespace

std::uint32_t mode(const Metadata& metadata) noexcept {
  return (metadata.mode & 0777U) | (metadata.type == EntryType::directory ? 0700U : 0600U);
}

std::vector<std::pair<std::string, std::string>> attributes(const Metadata& metadata, uid_t uid, gid_t gid) {
  std::vector<std::pair<std::string, std::string>> list;
  for (const auto& [name, value] : metadata.xattrs) {
    if (name == "system.posix_acl_access" || name == "system.posix_acl_default") {
      std::optional<Acl> acl = parse(value);
      if (!acl) continue;
      const bool is_access = name.ends_with("access");
      if (is_access) strip(*acl, metadata.mode);
      list.emplace_back(fmt::format("{}%{}acl", prefix, is_access ? 'a' : 'd'), text_of(*acl));
    } else if (name.starts_with("user.")) {
      // The guest's own marks of this kind would be taken for ours.
      if (!name.starts_with(fmt::format("{}%", prefix))) list.emplace_back(name, value);
    } else {
      list.emplace_back(fmt::format("{}{}", prefix, name), value);
    }
  }
  const bool is_itself = metadata.type == EntryType::file || metadata.type == EntryType::directory;
  if (!is_itself || metadata.uid != uid || metadata.gid != gid || metadata.mode != mode(metadata)) {
    const bool is_device = metadata.type == EntryType::character_device || metadata.type == EntryType::block_device;
    list.emplace_back(
        fmt::format("{}%stat", prefix),
        fmt::format("{:o} {},{} {}:{}", type_bits(metadata.type) | metadata.mode, is_device ? metadata.device_major : 0,
                    is_device ? metadata.device_minor : 0, metadata.uid, metadata.gid));
  }
  std::sort(list.begin(), list.end());
  return list;
}

}  // namespace stillpoint::fake_super
