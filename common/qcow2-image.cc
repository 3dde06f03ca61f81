// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/qcow2-image.hh"

#include "common/errors.hh"
#include "common/glib.hh"

#include <fmt/format.h>

#include <array>
#include <string>

namespace stillpoint {

void create_qcow2(const std::filesystem::path& path, std::uint64_t size) {
  const std::string bytes = std::to_string(size);
  std::array<const char*, 8> argv = {"qemu-img", "create", "-q", "-f", "qcow2", path.c_str(), bytes.c_str(), nullptr};
  GErrorOut error;
  gchar* complaint = nullptr;
  int status = 0;
  // GLib does not write to the words it is given.
  const bool ran = g_spawn_sync(nullptr, const_cast<gchar**>(argv.data()), nullptr,  // NOLINT
                                GSpawnFlags(G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL), nullptr, nullptr,
                                nullptr, &complaint, &status, error) != FALSE;
  const GCharPtr owned(complaint);
  if (!ran)
    throw StorageError(fmt::format("cannot run qemu-img: {}", error.message()),
                       "install QEMU's tools (Debian: qemu-utils)");
  if (status != 0) {
    std::string words = complaint != nullptr ? complaint : "";
    words = words.substr(0, words.find('\n'));
    throw StorageError(fmt::format("cannot create {}: {}", path.native(), words));
  }
}

}  // namespace stillpoint
