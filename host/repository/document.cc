// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/document.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/checksum.hh"

#include <fmt/format.h>

#include <array>
#include <span>
#include <vector>

namespace stillpoint {

namespace {

std::string checksum(std::string_view text) {
  return to_hex(ChunkHasher()(as_bytes(text)));
}

}  // namespace

std::string seal_document(std::string_view kind, const Json& content) {
  const std::string text = dump_json(content);
  std::string document = fmt::format("{{\"sha256\":\"{}\",\"{}\":{}}}\n", checksum(text), kind, text);
  if (document.size() > max_document_bytes)
    throw StorageError(
        fmt::format("the {} would have {} bytes, more than {}", kind, document.size(), max_document_bytes));
  return document;
}

Json encrypt_document(const Secret& key, std::string_view object, const Json& content) {
  const std::string text = dump_json(content);
  std::array<std::byte, cipher_nonce_bytes> nonce;
  fill_random(nonce);
  std::vector<std::byte> sealed(text.size() + cipher_tag_bytes);
  Cipher(key).seal(nonce, as_bytes(object), as_bytes(text), sealed);
  return {{"nonce", bytes_to_hex(nonce)}, {"sealed", bytes_to_hex(sealed)}};
}

Json decrypt_document(const Secret& key, std::string_view object, const Json& content) {
  const auto damaged = [object] { return Corruption(fmt::format("{} cannot be decrypted: it is damaged", object)); };
  try {
    const std::string hex = json_string(content, "sealed", max_document_bytes);
    std::array<std::byte, cipher_nonce_bytes> nonce;
    std::vector<std::byte> sealed(hex.size() / 2);
    if (!hex_to_bytes(json_string(content, "nonce", 2 * cipher_nonce_bytes), nonce) || !hex_to_bytes(hex, sealed) ||
        sealed.size() < cipher_tag_bytes)
      throw damaged();
    std::string text(sealed.size() - cipher_tag_bytes, '\0');
    if (!Cipher(key).open(nonce, as_bytes(object), sealed, std::as_writable_bytes(std::span(text)))) throw damaged();
    return parse_json(text, object, {max_document_bytes, 32});
  } catch (const ProtocolError& e) {
    throw Corruption(fmt::format("{}: {}", object, e.what()));
  }
}

Json open_document(std::string_view kind, std::string_view text, std::string_view what) {
  constexpr std::string_view begin = "{\"sha256\":\"";
  const std::string middle = fmt::format("\",\"{}\":", kind);
  constexpr std::string_view end = "}\n";
  const std::size_t content = begin.size() + 64 + middle.size();
  if (text.size() < content + end.size() || !text.starts_with(begin) ||
      text.substr(begin.size() + 64, middle.size()) != middle || !text.ends_with(end))
    throw Corruption(fmt::format("{} is damaged or no {}", what, kind));
  const std::string_view inner = text.substr(content, text.size() - content - end.size());
  if (checksum(inner) != text.substr(begin.size(), 64))
    throw Corruption(fmt::format("{} is damaged: it does not match its checksum", what));
  try {
    return parse_json(inner, what, {max_document_bytes, 32});
  } catch (const ProtocolError& e) {
    throw Corruption(e.what());
  }
}

}  // namespace stillpoint
