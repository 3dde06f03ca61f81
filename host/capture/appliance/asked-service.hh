// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-wire.hh"
#include "host/capture/worker/block-service.hh"

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace stillpoint {

/// Descriptors that the worker of an AskedReader is started with.
inline constexpr int questions_fd = 3;
inline constexpr int blocks_socket = 4;

/// What the worker of an AskedReader answers, whoever reads for it.
class AskedService {
 public:
  explicit AskedService(Parent& parent) : parent_(parent) {}
  AskedService(const AskedService&) = delete;
  AskedService& operator=(const AskedService&) = delete;
  virtual ~AskedService() = default;

  [[noreturn]] void serve();

 protected:
  /// Makes everything ready that the companion names, and sends what file systems there are.
  virtual void list(wire::Reader& request) = 0;
  /// Sends the entries of one of them. Throws NotFound, CaptureError.
  virtual void walk(std::uint32_t number, std::string_view path, bool recursive) = 0;
  /// Fills the buffer with contents of files that were walked. Throws CaptureError.
  virtual void read(std::span<char> buffer, std::uint64_t offset) = 0;

  void say(wire::Type type, std::string_view text);
  /// Answers questions until the companion wants the next entries.
  void await_next();
  Parent& parent() noexcept { return parent_; }
  /// What we run has its own bounds by now; a directory without an end must not cost the host its memory.
  static void limit_memory();

 private:
  void answer(const wire::Message& message);
  void read_content(wire::Reader& request);

  Parent& parent_;
};

/// A worker's main: `serve` does not return; what it throws is told. `name`: for who starts it by hand.
[[nodiscard]] int run_asked_worker(std::string_view name, const std::function<void(Parent&)>& serve);

}  // namespace stillpoint
