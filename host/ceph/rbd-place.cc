// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/ceph/rbd.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

std::string to_string(const RbdPlace& place) {
  return place.name_space.empty() ? fmt::format("{}/{}", place.pool, place.image)
                                  : fmt::format("{}/{}/{}", place.pool, place.name_space, place.image);
}

RbdPlace parse_rbd_place(const std::string& text) {
  const auto slashes = std::count(text.begin(), text.end(), '/');
  const std::size_t first = text.find('/');
  const std::size_t last = text.rfind('/');
  RbdPlace place;
  if (slashes == 0)
    place = {"rbd", "", text};
  else if (slashes == 1)
    place = {text.substr(0, first), "", text.substr(first + 1)};
  else if (slashes == 2)
    place = {text.substr(0, first), text.substr(first + 1, last - first - 1), text.substr(last + 1)};
  // '@' would name a snapshot, ':' an option of QEMU's.
  if (place.pool.empty() || place.image.empty() || (slashes == 2 && place.name_space.empty()) ||
      text.find_first_of("@:") != std::string::npos)
    throw UsageError(fmt::format("'{}' is no RBD image", text), "write POOL/IMAGE or POOL/NAMESPACE/IMAGE");
  return place;
}

void check_rbd_name(const RbdPlace& place) {
  if (parse_rbd_place(to_string(place)) != place)
    throw UsageError(fmt::format("'{}' is no name of an RBD image", place.image), "choose one without '/'");
}

RbdPlace parse_rbd_pool(const std::string& text, bool with_image) {
  const std::size_t slash = text.find('/');
  const std::string pool = text.substr(0, slash);
  const bool in_namespace = text.ends_with('/');
  if (with_image && slash != std::string::npos && !in_namespace) return parse_rbd_place(text);
  RbdPlace place{pool, "", ""};
  if (slash != std::string::npos) place.name_space = text.substr(slash + 1, text.size() - slash - 1 - in_namespace);
  if (pool.empty() || text.find_first_of("@:") != std::string::npos ||
      place.name_space.find('/') != std::string::npos || (slash != std::string::npos && place.name_space.empty()))
    throw UsageError(fmt::format("'{}' is no pool for RBD images", text),
                     with_image ? "write POOL, POOL/IMAGE, POOL/NAMESPACE/ or POOL/NAMESPACE/IMAGE"
                                : "write POOL or POOL/NAMESPACE");
  return place;
}

}  // namespace stillpoint
