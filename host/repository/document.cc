// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/document.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/checksum.hh"

#include <fmt/format.h>

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
