// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "common/errors.hh"

#include <glib-object.h>
#include <glib.h>

#include <memory>
#include <string>
#include <string_view>

namespace stillpoint {

template <typename T>
using GObjectPtr = CPtr<T, g_object_unref>;
using GCharPtr = CPtr<char, g_free>;
using GErrorPtr = CPtr<GError, g_error_free>;

/// Receives a GError and throws it: `GErrorOut error; if (!g_foo(..., error)) error.raise<ConfigError>("cannot foo");`
class GErrorOut {
 public:
  GErrorOut() = default;
  GErrorOut(const GErrorOut&) = delete;
  GErrorOut& operator=(const GErrorOut&) = delete;
  ~GErrorOut() { g_clear_error(&error_); }

  operator GError**() noexcept { return &error_; }
  [[nodiscard]] const GError* get() const noexcept { return error_; }
  [[nodiscard]] std::string message() const { return error_ != nullptr ? error_->message : "unknown error"; }

  template <typename E = Error>
  [[noreturn]] void raise(std::string_view what) const {
    throw E(std::string(what) + ": " + message());
  }

 private:
  GError* error_ = nullptr;
};

}  // namespace stillpoint
