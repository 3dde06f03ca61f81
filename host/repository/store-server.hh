// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

struct StoreServerOptions {
  std::filesystem::path path;
  bool append_only = false;          ///< the other side may delete nothing, see AppendOnlyStore
  std::vector<std::string> domains;  ///< of which it may add still points, as patterns; empty for all
};

/// Serves a directory's store over these descriptors until the other side ends or it is stopped. The other side is no
/// more trusted than the account that it came by: it can name objects of this store and nothing else. Throws
/// Unreachable, ProtocolError.
void serve_store(int in, int out, const StoreServerOptions& options, std::stop_token stop);

}  // namespace stillpoint
