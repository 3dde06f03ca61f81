// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/errors.hh"

#include <memory>
#include <stop_token>
#include <string>
#include <utility>

namespace stillpoint {

/// Passes progress on, and stops the work by throwing Interrupted when the operator asked for it: for work that has no
/// stop token of its own.
class WatchedProgress : public CaptureProgress {
 public:
  WatchedProgress(std::unique_ptr<CaptureProgress> inner, std::stop_token stop, std::string message)
      : inner_(std::move(inner)), stop_(std::move(stop)), message_(std::move(message)) {}

  void advance(std::uint64_t done, std::uint64_t total) override {
    if (stop_.stop_requested()) throw Interrupted(message_);
    inner_->advance(done, total);
  }

 private:
  std::unique_ptr<CaptureProgress> inner_;
  std::stop_token stop_;
  std::string message_;
};

}  // namespace stillpoint
