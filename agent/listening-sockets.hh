// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A unix stream socket on which somebody listens.
struct ListeningSocket {
  std::string path;  ///< as its server has named it, perhaps in another mount namespace, perhaps removed since
  std::uint64_t inode = 0;
  bool operator==(const ListeningSocket&) const = default;
};

/// Those in the text of /proc/net/unix that have a path.
[[nodiscard]] std::vector<ListeningSocket> parse_listening_sockets(std::string_view table);

/// Those of now; none when the kernel does not tell.
[[nodiscard]] std::vector<ListeningSocket> listening_sockets();

/// A process that has it open. Looks at all processes.
[[nodiscard]] std::optional<pid_t> process_of(const ListeningSocket& socket);
[[nodiscard]] std::optional<uid_t> user_of(pid_t process);

/// Whether a database server may run as that user: as root, under an account of the system, or under `account`. People
/// and their containers must neither be able to make a freeze fail nor be given our password.
[[nodiscard]] bool may_run_servers(uid_t uid, const std::string& account);

/// Why the server behind this socket file is not to be talked to; empty when it is. `named`: the configuration names
/// its place, which is enough unless everybody can put files there.
[[nodiscard]] std::string why_not_trusted(const std::string& path, const std::string& account, bool named);

}  // namespace stillpoint
