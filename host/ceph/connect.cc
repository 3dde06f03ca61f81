// SPDX-License-Identifier: LGPL-2.1-or-later
#include "config.hh"
#include "host/ceph/cluster.hh"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace stillpoint {
namespace {

constexpr const char* module_name = "stillpoint-ceph.so";
constexpr const char* entry_name = "stillpoint_connect_ceph";
using Entry = void (*)(const CephAddress&, std::shared_ptr<CephCluster>&);

/// Of this build while it is not installed. We may be in a program, or in nbdkit's plugin.
std::filesystem::path module_path() {
  if (const char* folder = std::getenv("STILLPOINT_LIBEXEC"); folder != nullptr && *folder != '\0')
    return std::filesystem::path(folder) / module_name;
  const std::string build = std::string(STILLPOINT_BUILD_DIR) + "/";
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  Dl_info here{};
  const bool in_build = (!error && self.native().starts_with(build)) ||
                        (::dladdr(reinterpret_cast<const void*>(&connect_ceph), &here) != 0 &&
                         here.dli_fname != nullptr && std::string_view(here.dli_fname).starts_with(build));
  return (in_build ? std::filesystem::path(build) / "host/ceph" : std::filesystem::path(STILLPOINT_LIBEXEC)) /
         module_name;
}

/// Stays loaded: its threads end when they like.
Entry load() {
  const std::filesystem::path path = module_path();
  void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* const entry = module == nullptr ? nullptr : ::dlsym(module, entry_name);
  if (entry == nullptr)
    throw ConfigError(fmt::format("Ceph cannot be used: {}", ::dlerror()), "install the package stillpoint-ceph");
  return reinterpret_cast<Entry>(entry);
}

ExitCode reaction(int code) {
  switch (code) {
    case ENOENT:
      return ExitCode::not_found;
    case ETIMEDOUT:
    case ESHUTDOWN:  // the client was put on the block list
    case ENOTCONN:
    case ECONNREFUSED:
      return ExitCode::unreachable;
    case ENOSPC:
    case EDQUOT:
      return ExitCode::storage;
    case EACCES:
    case EPERM:
      return ExitCode::configuration;
    default:
      return ExitCode::capture;
  }
}

std::string advice(int code) {
  switch (code) {
    case ETIMEDOUT:
      return look_at_cluster;
    case ESHUTDOWN:
      return "this client is on the cluster's block list (ceph osd blocklist ls): somebody cut it off; try again";
    case ENOSPC:
    case EDQUOT:
      return "make room in the pool, or raise its quota";
    case EACCES:
    case EPERM:
      return "see docs/ceph.md for the capabilities that the Ceph user needs";
    default:
      return {};
  }
}

}  // namespace

CephError::CephError(const std::string& what, int code)
    : Error(fmt::format("{}: {}", what, std::strerror(code)), advice(code), reaction(code)), code_(code) {}

std::shared_ptr<CephCluster> connect_ceph(const CephAddress& address) {
  static const Entry entry = load();
  std::shared_ptr<CephCluster> cluster;
  entry(address, cluster);
  return cluster;
}

}  // namespace stillpoint
