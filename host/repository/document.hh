// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/json.hh"
#include "host/repository/cipher.hh"

#include <string>
#include <string_view>

namespace stillpoint {

/// A JSON document with its checksum: {"sha256":"...","KIND":{...}} and a newline. The checksum is of the exact bytes
/// of the inner object, so that a flipped bit in a string is noticed too.
[[nodiscard]] std::string seal_document(std::string_view kind, const Json& content);
/// The inner object. Throws Corruption naming `what`.
[[nodiscard]] Json open_document(std::string_view kind, std::string_view text, std::string_view what);

/// The content of a document that only the key's holders read: {"nonce", "sealed"}. It can be read under that object's
/// name only.
[[nodiscard]] Json encrypt_document(const Secret& key, std::string_view object, const Json& content);
/// Throws Corruption.
[[nodiscard]] Json decrypt_document(const Secret& key, std::string_view object, const Json& content);

/// Longer documents are neither written nor read.
inline constexpr std::size_t max_document_bytes = std::size_t{64} << 20;

}  // namespace stillpoint
