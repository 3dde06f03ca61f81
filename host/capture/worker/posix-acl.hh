// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <string_view>

namespace stillpoint {

/// An access control list as ext4 stores it, in the form that setxattr(2) takes. Throws CaptureError when it is
/// damaged.
[[nodiscard]] std::string kernel_acl(std::string_view stored);

}  // namespace stillpoint
