// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <memory>

namespace stillpoint {

/// Calls the C function F on the pointer: the whole ownership policy for handles of C libraries.
/// Use: `using Session = CPtr<nbd_handle, nbd_close>;`
template <auto F>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const noexcept {
    static_cast<void>(F(pointer));
  }
};

template <typename T, auto F>
using CPtr = std::unique_ptr<T, Deleter<F>>;

}  // namespace stillpoint
