// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/append-only-store.hh"

#include "common/errors.hh"
#include "host/repository/drill-record.hh"
#include "host/repository/lease.hh"
#include "host/repository/pack.hh"
#include "host/repository/still-point-name.hh"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <optional>

namespace stillpoint {

namespace {

constexpr std::array<std::string_view, 7> may_add{"packs/",      "index/",     "manifests/", "locks/",
                                                  "quarantine/", "protected/", "drills/"};

/// What a still point with a domain's state needs of the programs that write here.
constexpr std::string_view state_feature = "features/ro_compat.state";

[[noreturn]] void refuse(std::string_view what) {
  throw ConfigError(fmt::format("the repository is open for adding only: {}", what),
                    "do that where the repository lies, or with a key that may");
}

/// "locks/shared-ID.N": a prune's lease would keep others from pruning.
bool is_writers_lease(std::string_view name) {
  constexpr std::string_view start = "locks/shared-";
  constexpr std::size_t id_digits = 32;
  if (!name.starts_with(start)) return false;
  name.remove_prefix(start.size());
  if (name.size() < id_digits + 2 || !is_id(name.substr(0, id_digits)) || name[id_digits] != '.') return false;
  return std::ranges::all_of(name.substr(id_digits + 1), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

/// What was written through it is ours to delete, once it is there: the name may be somebody else's until then.
class AppendOnlyStore::LeaseWriter : public ObjectWriter {
 public:
  LeaseWriter(AppendOnlyStore& store, std::string name)
      : store_(store), name_(std::move(name)), real_(store.store_->writer(name_)) {}
  void append(std::span<const std::byte> bytes) override { real_->append(bytes); }
  void commit() override {
    real_->commit();
    const std::scoped_lock lock(store_.mutex_);
    store_.own_leases_.insert(name_);
  }

 private:
  AppendOnlyStore& store_;
  std::string name_;
  std::unique_ptr<ObjectWriter> real_;
};

AppendOnlyStore::AppendOnlyStore(std::unique_ptr<Store> store, std::vector<std::string> domains)
    : store_(std::move(store)), domains_(std::move(domains)), opened_(wall_now()) {}

/// A still point of another time than now would outlive others by the rules of prune, or push them out.
void AppendOnlyStore::check_manifest(std::string_view object) const {
  const std::optional<ManifestObject> named = parse_manifest_object(object);
  if (!named) refuse(fmt::format("{} is no still point's name", object));
  if (named->instant > wall_now() + clock_margin || named->instant < opened_ - clock_margin)
    refuse(fmt::format("{} was not taken now", object));
  check_domain(named->domain);
}

/// The newest drill counts: one of a later time than now would count for ever.
void AppendOnlyStore::check_drill(std::string_view object) const {
  const DrillObject named = parse_drill_object(object);
  if (named.still_point.empty()) refuse(fmt::format("{} is no drill's name", object));
  if (named.at > wall_now() + clock_margin) refuse(fmt::format("{} has not been yet", object));
  check_domain(parse_still_point_name(named.still_point).domain);
}

void AppendOnlyStore::check_domain(const std::string& domain) const {
  const auto matches = [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), domain.c_str(), 0) == 0; };
  if (!domains_.empty() && std::ranges::none_of(domains_, matches))
    refuse(fmt::format("{} is no domain of this account", domain));
}

std::unique_ptr<ObjectWriter> AppendOnlyStore::writer(std::string name) {
  const auto starts = [&name](std::string_view prefix) { return name.starts_with(prefix); };
  if (name != state_feature && std::ranges::none_of(may_add, starts))
    refuse(fmt::format("{} is not for a writer to make", name));
  if (starts("packs/") && !parse_pack_name(name)) refuse(fmt::format("{} is no pack's name", name));
  if (starts("manifests/")) check_manifest(name);
  if (starts("drills/")) check_drill(name);
  if (!starts("locks/")) return store_->writer(std::move(name));
  if (!is_writers_lease(name)) refuse(fmt::format("{} is no lease of a writer", name));
  return std::make_unique<LeaseWriter>(*this, std::move(name));
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
