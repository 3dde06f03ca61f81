// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/engine.hh"
#include "agent/main-loop.hh"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace stillpoint {

/// One dump on its way to the host: bytes are taken from the tool only as the host's credit and the channel's queue
/// allow, so that a slow stream blocks neither the others nor the main loop.
class DumpStream {
 public:
  struct Output {
    std::function<void(std::string_view bytes)> send;
    std::function<bool()> has_room;                                            ///< whether the channel takes more now
    std::function<void(std::uint64_t bytes, const std::string& failure)> end;  ///< the last call
  };

  DumpStream(std::shared_ptr<RunningDump> dump, Output output);
  DumpStream(const DumpStream&) = delete;
  DumpStream& operator=(const DumpStream&) = delete;
  /// Ends the tool, in a thread: one that hangs in the kernel is not waited for.
  ~DumpStream();

  /// The host takes that many more bytes. What overflows is cut: no dump is that long.
  void add_credit(std::uint64_t bytes);
  /// The channel has room again.
  void resume();

 private:
  void update();
  void read();
  void ended();

  std::shared_ptr<RunningDump> dump_;
  Output output_;
  Source source_;
  std::uint64_t credit_ = 0;
  std::uint64_t sent_ = 0;
  bool ended_ = false;
};

}  // namespace stillpoint
