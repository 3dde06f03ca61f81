// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/store.hh"

#include "common/errors.hh"
#include "host/repository/directory-store.hh"
#include "host/repository/rados-store.hh"
#include "host/repository/remote-store.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

class MemoryView : public ObjectView {
 public:
  explicit MemoryView(std::vector<std::byte> bytes) noexcept : bytes_(std::move(bytes)) {}
  [[nodiscard]] std::span<const std::byte> bytes() const override { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

std::unique_ptr<ObjectView> memory_view(std::vector<std::byte> bytes) {
  return std::make_unique<MemoryView>(std::move(bytes));
}

void Store::put(std::string name, std::span<const std::byte> bytes) {
  const std::unique_ptr<ObjectWriter> object = writer(std::move(name));
  object->append(bytes);
  object->commit();
}

std::string Store::get(const std::string& name, std::uint64_t limit) {
  const std::unique_ptr<ObjectReader> object = reader(name);
  if (object->size() > limit)
    throw Corruption(fmt::format("{}/{} has {} bytes, more than {}", url(), name, object->size(), limit));
  std::string text(object->size(), '\0');
  try {
    object->read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
  } catch (const Corruption&) {
    // NFS 3 does not keep what another host deletes for whom it is open.
    if (!exists(name)) throw NotFound(fmt::format("{}/{} does not exist", url(), name));
    throw;
  }
  return text;
}

std::unique_ptr<Store> open_store(std::string_view url, StoreAccess access) {
  if (url.starts_with("ssh://"))
    return std::make_unique<RemoteStore>(parse_remote_address(url.substr(sizeof "ssh://" - 1)), access);
  if (url.starts_with("rados://"))
    return std::make_unique<RadosStore>(parse_rados_address(url.substr(sizeof "rados://" - 1)), access);
  if (url.starts_with("file://")) {
    url.remove_prefix(7);
  } else if (const std::size_t colon = url.find("://"); colon != std::string_view::npos) {
    const std::string_view scheme = url.substr(0, colon);
    const bool known = scheme == "s3" || scheme == "swift";
    throw ConfigError(
        known ? fmt::format("'{}' repositories are not built into this program", scheme)
              : fmt::format("'{}' is no kind of repository", scheme),
        "name a directory, as a path, as file://PATH, or as ssh://HOST/PATH on another machine, or a Ceph pool "
        "as rados://POOL");
  }
  if (url.empty() || url.find('\0') != std::string_view::npos)
    throw ConfigError("the repository's name is empty", "name a directory, as a path or as file://PATH");
  return std::make_unique<DirectoryStore>(std::filesystem::path(url), access);
}

}  // namespace stillpoint
