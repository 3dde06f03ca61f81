// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/repository.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/chunk-store.hh"
#include "host/repository/disk-reader.hh"
#include "host/repository/disk-writer.hh"
#include "host/repository/document.hh"
#include "host/repository/dump-reader.hh"
#include "host/repository/dump-writer.hh"
#include "host/repository/repository-config.hh"
#include "host/repository/still-point-name.hh"
#include "host/repository/store.hh"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

namespace stillpoint {

class Repository::Engine {
 public:
  Engine(std::string_view url, Mode mode)
      : store(open_store(url, mode == Mode::write ? StoreAccess::write : StoreAccess::read)),
        config(read_config(*store, mode == Mode::write)),
        writable(mode == Mode::write) {}

  /// The chunks, and with them the index, are opened when they are first needed: `list` goes without.
  /// Writers may be asked for by several threads at once.
  std::shared_ptr<ChunkStore> open_chunks() {
    const std::scoped_lock lock(mutex_);
    if (!chunks_) chunks_ = std::make_shared<ChunkStore>(store, config.id, config.chunk_bytes, writable);
    return chunks_;
  }

  /// What open_chunks() has opened, if anything.
  std::shared_ptr<ChunkStore> opened_chunks() {
    const std::scoped_lock lock(mutex_);
    return chunks_;
  }

  void need_writable() const {
    if (!writable) throw ConfigError(fmt::format("the repository {} is open for reading only", store->url()));
  }

  std::shared_ptr<Store> store;
  RepositoryConfig config;
  bool writable;

 private:
  std::mutex mutex_;
  std::shared_ptr<ChunkStore> chunks_;
};

namespace {

/// "manifests/DOMAIN/TIME" as a summary; nothing when it is named otherwise.
std::optional<StillPointSummary> summary_of(std::string_view object) {
  constexpr std::string_view prefix = "manifests/";
  if (!object.starts_with(prefix)) return std::nullopt;
  object.remove_prefix(prefix.size());
  const std::size_t slash = object.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::optional<std::string> domain = unescape_domain(object.substr(0, slash));
  const std::string_view text = object.substr(slash + 1);
  const std::optional<WallTime> time = parse_name_time(text);
  if (!domain || !time) return std::nullopt;
  return StillPointSummary{fmt::format("{}@{}", *domain, text), *domain, *time};
}

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j)
    row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, changed}));
    }
  }
  return row[b.size()];
}

/// What is there instead: the domain's own still points nearest in name, else the domains nearest in name.
std::string nearest(const std::vector<StillPointSummary>& all, const StillPointName& wanted) {
  std::vector<std::string> names;
  for (const StillPointSummary& summary : all)
    if (summary.domain == wanted.domain) names.push_back(summary.name);
  std::string wanted_name = wanted.domain + "@" + wanted.time;
  if (names.empty()) {
    for (const StillPointSummary& summary : all)
      if (names.empty() || names.back() != summary.domain) names.push_back(summary.domain);
    wanted_name = wanted.domain;
  }
  if (names.empty()) return "the repository has no still points yet";
  constexpr std::size_t shown = 3;
  wanted_name.resize(std::min<std::size_t>(wanted_name.size(), 512));
  const std::size_t count = std::min(names.size(), shown);
  std::partial_sort(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(count), names.end(),
                    [&](const std::string& a, const std::string& b) {
                      return std::pair(distance(a, wanted_name), a) < std::pair(distance(b, wanted_name), b);
                    });
  names.resize(count);
  return fmt::format("there is {}", fmt::join(names, ", "));
}

}  // namespace

void Repository::create(std::string_view url, const RepositoryOptions& options) {
  if (!valid_chunk_bytes(options.chunk_bytes))
    throw ConfigError(fmt::format("chunks of {} bytes are not possible", options.chunk_bytes),
                      "use a power of two from 65536 to 4194304");
  const std::unique_ptr<Store> store = open_store(url, StoreAccess::create);
  write_config(*store, {random_id(), options.chunk_bytes});
}

Repository::Repository(std::string_view url, Mode mode) : engine_(std::make_unique<Engine>(url, mode)) {}
Repository::Repository(Repository&&) noexcept = default;
Repository& Repository::operator=(Repository&&) noexcept = default;
Repository::~Repository() = default;

const std::string& Repository::id() const {
  return engine_->config.id;
}

std::uint32_t Repository::chunk_bytes() const {
  return engine_->config.chunk_bytes;
}

std::optional<std::filesystem::path> Repository::directory() const {
  return engine_->store->directory();
}

std::unique_ptr<DiskWriter> Repository::write_disk(std::uint64_t size, const std::optional<DiskMap>& base) {
  engine_->need_writable();
  return std::make_unique<ChunkedDiskWriter>(engine_->open_chunks(), size, base);
}

std::unique_ptr<DumpWriter> Repository::write_dump() {
  engine_->need_writable();
  return std::make_unique<ChunkedDumpWriter>(engine_->open_chunks());
}

std::string Repository::free_name(std::string_view domain, WallTime instant) {
  const std::string short_time = format_time(instant);
  if (!engine_->store->exists(manifest_object(domain, short_time))) return fmt::format("{}@{}", domain, short_time);
  for (;; instant += std::chrono::microseconds(1)) {
    const std::string time = format_time_precise(instant);
    if (!engine_->store->exists(manifest_object(domain, time))) return fmt::format("{}@{}", domain, time);
  }
}

void Repository::commit(Manifest& manifest) {
  engine_->need_writable();
  if (manifest.name.empty()) manifest.name = free_name(manifest.domain, manifest.instant);
  const Json json = to_json(manifest);
  // What could not be read again must not be written.
  static_cast<void>(parse_manifest(json));
  const std::string document = seal_document("manifest", json);
  if (const std::shared_ptr<ChunkStore> chunks = engine_->opened_chunks()) chunks->flush();
  const std::string time = manifest.name.substr(manifest.domain.size() + 1);
  engine_->store->put(manifest_object(manifest.domain, time), as_bytes(document));
}

std::unique_ptr<BlockReader> Repository::open_disk(const DiskMap& map) {
  return std::make_unique<MappedDiskReader>(engine_->open_chunks(), map);
}

void Repository::read_dump(const StreamMap& map, const std::function<void(std::span<const std::byte>)>& consumer) {
  read_stream(*engine_->open_chunks(), map, consumer);
}

std::vector<StillPointSummary> Repository::list(std::string_view domain) {
  std::vector<StillPointSummary> summaries;
  const std::string prefix = domain.empty() ? "manifests" : "manifests/" + escape_domain(domain);
  for (const ObjectInfo& object : engine_->store->list(prefix)) {
    std::optional<StillPointSummary> summary = summary_of(object.name);
    if (summary)
      summaries.push_back(std::move(*summary));
    else
      log_warning("{} is not a manifest: ignored", object.name);
  }
  std::sort(summaries.begin(), summaries.end(), [](const StillPointSummary& a, const StillPointSummary& b) {
    return std::tie(a.domain, a.instant, a.name) < std::tie(b.domain, b.instant, b.name);
  });
  return summaries;
}

Manifest Repository::load(std::string_view name) {
  StillPointName wanted = parse_still_point_name(name);
  static_cast<void>(escape_domain(wanted.domain));
  if (wanted.time.empty()) {
    const std::vector<StillPointSummary> all = list(wanted.domain);
    if (all.empty())
      throw NotFound(fmt::format("there is no still point of '{}'", wanted.domain), nearest(list(), wanted));
    wanted.time = all.back().name.substr(wanted.domain.size() + 1);
  }
  const std::string object = manifest_object(wanted.domain, wanted.time);
  const std::string full_name = fmt::format("{}@{}", wanted.domain, wanted.time);
  std::string text;
  try {
    text = engine_->store->get(object, max_document_bytes);
  } catch (const NotFound&) {
    throw NotFound(fmt::format("there is no still point '{}'", full_name), nearest(list(), wanted));
  }
  const std::string what = fmt::format("the manifest of {}", full_name);
  try {
    Manifest manifest = parse_manifest(open_document("manifest", text, what));
    if (manifest.name != full_name) throw Corruption(fmt::format("{} is that of {}", what, manifest.name));
    return manifest;
  } catch (const Corruption& e) {
    throw Corruption(e.what(), e.hint().empty() ? "restore another still point" : e.hint());
  }
}

std::optional<Manifest> Repository::latest(std::string_view domain) {
  const std::vector<StillPointSummary> all = list(domain);
  if (all.empty()) return std::nullopt;
  return load(all.back().name);
}

}  // namespace stillpoint
