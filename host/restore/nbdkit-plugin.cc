// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "common/file.hh"
#include "config.hh"
#include "host/repository/ahead-reader.hh"
#include "host/repository/repository.hh"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

// Not PARALLEL: nbdkit 1.32 ends with a failed assertion when a client goes while several of its requests are answered.
// A large request is read by all cores anyway, and clients that want more open several connections.
#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS

/// A disk of a still point as an NBD export: `nbdkit stillpoint repository=URL name=web1@latest disk=vda`. Read-only;
/// every chunk is checked against its id before any of its bytes is served.
namespace {

using namespace stillpoint;

/// Chunks of which a part was asked for: a guest that boots comes back for the rest.
constexpr std::size_t cache_bytes = 64 << 20;
constexpr std::size_t longest_key_file = 1 << 20;

struct Settings {
  std::string repository;
  std::string name;
  std::string disk;
  KeySource key;
  bool has_key = false;
};

/// What all connections share; opened in the process that serves.
struct Served {
  explicit Served(const Settings& settings)
      : repository(settings.repository, Repository::Mode::read, [&settings] {
          if (settings.has_key) return settings.key;
          throw ConfigError("the repository is encrypted, and no key is given: use key-file= or passphrase=");
        }) {
    const Manifest manifest = repository.load(settings.name);
    const DiskRecord* const found = disk_record(manifest, settings.disk);
    if (found == nullptr) throw NotFound(manifest.name + " has no disk '" + settings.disk + "'");
    whole = repository.open_disk(found->map);
    disk = std::make_unique<AheadReader>(repository.open_disk(found->map), crew, repository.chunk_bytes(), cache_bytes);
  }
  /// Who asks for a chunk and more at once asks for several, and gains nothing by what is read ahead.
  BlockReader& reader_of(std::uint32_t count) { return count >= repository.chunk_bytes() ? *whole : *disk; }

  Repository repository;
  Crew crew;
  std::unique_ptr<BlockReader> whole;
  std::unique_ptr<BlockReader> disk;
};

// nbdkit's callbacks have no context before a connection is open.
Settings settings;
std::unique_ptr<Served> served;

/// Calls `body`; what it throws becomes nbdkit's error and -1.
template <typename Body>
int guarded(const Body& body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    nbdkit_error("%s", error.what());
    nbdkit_set_error(EIO);
    return -1;
  }
}

void set_passphrase(const char* value) {
  char* text = nullptr;
  if (nbdkit_read_password(value, &text) != 0) throw ConfigError("the passphrase cannot be read");
  settings.key.passphrase = text;
  settings.has_key = true;
  ::explicit_bzero(text, settings.key.passphrase.size());
  std::free(text);
}

int configure(const char* key, const char* value) {
  return guarded([&] {
    const std::string_view name = key;
    if (name == "repository") {
      settings.repository = value;
    } else if (name == "name") {
      settings.name = value;
    } else if (name == "disk") {
      settings.disk = value;
    } else if (name == "key-file") {
      settings.key.key_file = read_text(value, longest_key_file);
      settings.has_key = true;
    } else if (name == "passphrase") {
      set_passphrase(value);
    } else {
      throw UsageError(std::string("there is no parameter '") + key + "'");
    }
  });
}

int configured() {
  return guarded([] {
    if (settings.repository.empty() || settings.name.empty() || settings.disk.empty())
      throw UsageError("repository=, name= and disk= must be given");
  });
}

/// Before nbdkit goes to the background: what is wrong is said on the terminal. Threads would not survive that, so it
/// is closed again.
int try_it() {
  return guarded([] { const Served trial(settings); });
}

int begin() {
  return guarded([] { served = std::make_unique<Served>(settings); });
}

void end() {
  served.reset();
}

void* open_connection(int /*read_only*/) {
  return served.get();
}

std::int64_t size(void* /*connection*/) {
  return static_cast<std::int64_t>(served->disk->size());
}

int read(void* /*connection*/, void* buffer, std::uint32_t count, std::uint64_t offset, std::uint32_t /*flags*/) {
  return guarded([&] { served->reader_of(count).pread({static_cast<std::byte*>(buffer), count}, offset); });
}

int extents(void* /*connection*/, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
            nbdkit_extents* extents) {
  return guarded([&] {
    for (const std::uint64_t end = offset + count; offset < end;) {
      for (const Extent& extent : served->disk->extents(offset, end - offset)) {
        const std::uint32_t type = extent.data ? 0 : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
        if (nbdkit_add_extent(extents, extent.offset, extent.length, type) != 0) throw Error("out of memory");
        offset = extent.offset + extent.length;
        if ((flags & NBDKIT_FLAG_REQ_ONE) != 0) return;
      }
    }
  });
}

/// Loads the chunks, so that reading them soon waits for nothing.
int load(void* /*connection*/, std::uint32_t count, std::uint64_t offset, std::uint32_t /*flags*/) {
  return guarded([&] {
    const std::uint64_t end = offset + std::min<std::uint64_t>(count, cache_bytes / 2);
    const std::uint32_t chunk = served->repository.chunk_bytes();
    std::byte first{};
    for (; offset < end; offset = (offset / chunk + 1) * chunk)
      served->disk->pread({&first, 1}, offset);
  });
}

int yes(void* /*connection*/) {
  return 1;
}

int loads_itself(void* /*connection*/) {
  return NBDKIT_CACHE_NATIVE;
}

int block_size(void* /*connection*/, std::uint32_t* minimum, std::uint32_t* preferred, std::uint32_t* maximum) {
  *minimum = 1;
  *preferred = std::max<std::uint32_t>(4096, served->repository.chunk_bytes());
  *maximum = 0xffffffff;
  return 0;
}

nbdkit_plugin describe() {
  nbdkit_plugin plugin{};
  plugin.name = "stillpoint";
  plugin.longname = "a disk of a still point";
  plugin.version = STILLPOINT_VERSION;
  plugin.description = "serves a disk out of a stillpoint repository, read-only";
  plugin.config_help =
      "repository=URL     (required) where still points are kept\n"
      "name=NAME          (required) a still point, DOMAIN@latest or DOMAIN\n"
      "disk=TARGET        (required) the disk, as 'stillpoint show' names it\n"
      "key-file=FILE      the key of an encrypted repository\n"
      "passphrase=...     or its passphrase: -, +FILE or -FD, as other plugins have it";
  plugin.config = configure;
  plugin.config_complete = configured;
  plugin.get_ready = try_it;
  plugin.after_fork = begin;
  plugin.unload = end;
  plugin.open = open_connection;
  plugin.get_size = size;
  plugin.block_size = block_size;
  plugin.can_multi_conn = yes;
  plugin.pread = read;
  plugin.can_extents = yes;
  plugin.extents = extents;
  plugin.can_cache = loads_itself;
  plugin.cache = load;
  return plugin;
}

nbdkit_plugin plugin = describe();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
