// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/append-only-store.hh"

#include "common/errors.hh"
#include "host/repository/lease.hh"
#include "host/repository/still-point-name.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace stillpoint {

namespace {

/// How long ago a still point may have been taken that is listed only now: a first backup over a slow line takes days.
constexpr std::chrono::days longest_backup{14};

constexpr std::array<std::string_view, 6> may_add{"packs/", "index/",      "manifests/",
                                                  "locks/", "quarantine/", "protected/"};

[[noreturn]] void refuse(std::string_view what) {
  throw ConfigError(fmt::format("the repository is open for adding only: {}", what),
                    "do that where the repository lies, or with a key that may");
}

/// A still point of another time than now would outlive others by the rules of prune, or take their place.
void check_time(std::string_view object) {
  const std::string_view name = object.substr(object.find('/') + 1);
  const std::size_t slash = name.find('/');
  const std::optional<WallTime> instant =
      slash == std::string_view::npos ? std::nullopt : parse_name_time(name.substr(slash + 1));
  if (!instant || !unescape_domain(name.substr(0, slash))) refuse(fmt::format("{} is no still point's name", object));
  const WallTime now = wall_now();
  if (*instant > now + clock_margin || *instant < now - longest_backup)
    refuse(fmt::format("{} was not taken now", object));
}

}  // namespace

AppendOnlyStore::AppendOnlyStore(std::unique_ptr<Store> store) : store_(std::move(store)) {}

std::unique_ptr<ObjectWriter> AppendOnlyStore::writer(std::string name) {
  const auto starts = [&name](std::string_view prefix) { return name.starts_with(prefix); };
  if (!std::ranges::any_of(may_add, starts)) refuse(fmt::format("{} is not for a writer to make", name));
  // It would keep others from pruning.
  if (starts("locks/exclusive-")) refuse("prune is not for a writer");
  if (starts("manifests/")) check_time(name);
  if (starts("locks/")) {
    const std::scoped_lock lock(mutex_);
    own_leases_.insert(name);
  }
  return store_->writer(std::move(name));
}

void AppendOnlyStore::remove(const std::string& name) {
  {
    const std::scoped_lock lock(mutex_);
    if (own_leases_.erase(name) == 0) refuse(fmt::format("{} stays", name));
  }
  store_->remove(name);
}

void AppendOnlyStore::drop_unfinished(std::string_view lease) {
  refuse(fmt::format("what lease {} has begun is not for a writer to end", lease));
}

}  // namespace stillpoint
