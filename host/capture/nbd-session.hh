// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/file.hh"

#include <libnbd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Silence of an NBD server, while something is asked of it, that ends the session.
inline constexpr std::chrono::milliseconds nbd_answer_limit{60000};

/// A connection to an NBD server, past its handshake, with a limit on the server's silence. One thread at a time.
class NbdSession {
 public:
  /// An export behind a unix socket. Contexts that the server does not know are left out. Throws CaptureError.
  NbdSession(const std::filesystem::path& socket, std::string_view export_name,
             const std::vector<std::string>& contexts, std::chrono::milliseconds answer_limit = nbd_answer_limit);

  enum class Access { read_only, read_write, write_uncached };
  /// An image file or block device through a qemu-nbd that lives as long as the session. The format is never probed.
  /// Throws UsageError (no such file, no such format), CaptureError (qemu-nbd's own words).
  NbdSession(const std::filesystem::path& image, std::string_view format, Access access,
             std::chrono::milliseconds answer_limit = nbd_answer_limit);

  NbdSession(const NbdSession&) = delete;
  NbdSession& operator=(const NbdSession&) = delete;
  ~NbdSession() = default;

  [[nodiscard]] nbd_handle* get() const noexcept { return nbd_.get(); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }  ///< for messages
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  /// What offsets and lengths of requests are multiples of; a power of two.
  [[nodiscard]] std::uint32_t block() const noexcept { return block_; }
  [[nodiscard]] std::uint32_t max_request() const noexcept { return max_request_; }
  [[nodiscard]] bool has_context(const std::string& context) const noexcept;

  /// To be called when a request is sent to an idle server: its silence counts from now.
  void asked() noexcept { heard_at_ = SteadyClock::now(); }
  /// Lets the connection work until something happened or `patience` is over. Throws CaptureError when the server has
  /// gone or was silent for too long.
  void work(std::chrono::milliseconds patience);

  /// Waits until all that was written is on stable storage.
  void flush();
  /// Ends the session politely; for an image, returns when its qemu-nbd has ended.
  void close();
  /// Cuts the connection: no buffer is touched from now on.
  void abandon() noexcept { nbd_.reset(); }

  [[noreturn]] void fail(std::string_view what) const;

 private:
  using Connection = CPtr<nbd_handle, nbd_close>;

  void complete_handshake();

  std::string name_;
  std::chrono::milliseconds answer_limit_;
  UniqueFd messages_;  ///< what our qemu-nbd writes to stderr
  Connection nbd_;
  SteadyClock::time_point heard_at_ = SteadyClock::now();
  std::uint64_t size_ = 0;
  std::uint32_t block_ = 1;
  std::uint32_t max_request_ = 0;
};

}  // namespace stillpoint
