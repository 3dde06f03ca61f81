// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/frame.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <endian.h>
#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

namespace stillpoint {

namespace {

constexpr std::string_view magic = "SPF1";

std::size_t limit_of(FrameType type) {
  return type == FrameType::data ? max_data_bytes : max_control_bytes;
}

std::uint32_t load_u32(const char* at) {
  std::uint32_t value = 0;
  std::memcpy(&value, at, sizeof value);
  return le32toh(value);
}

void append_u32(std::string& out, std::uint32_t value) {
  value = htole32(value);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Why these 16 bytes are no header; empty when they are.
std::string header_fault(std::string_view header) {
  if (!header.starts_with(magic)) return "a frame does not begin with its magic";
  const auto type = static_cast<std::uint8_t>(header[4]);
  if (type != static_cast<std::uint8_t>(FrameType::control) && type != static_cast<std::uint8_t>(FrameType::data))
    return fmt::format("frame type {} is not known", type);
  if (header[5] != 0 || header[6] != 0 || header[7] != 0) return "reserved bytes of a frame are not zero";
  const std::uint32_t length = load_u32(header.data() + 12);
  if (length > limit_of(static_cast<FrameType>(type)))
    return fmt::format("a frame of {} bytes is longer than its type may be", length);
  return {};
}

}  // namespace

std::string encode_frame(FrameType type, std::uint32_t stream, std::string_view payload) {
  if (payload.size() > limit_of(type)) throw std::length_error("frame payload");
  std::string out;
  out.reserve(frame_header_bytes + payload.size());
  out += magic;
  out += static_cast<char>(type);
  out.append(3, '\0');
  append_u32(out, stream);
  append_u32(out, static_cast<std::uint32_t>(payload.size()));
  out += payload;
  return out;
}

void FrameDecoder::feed(std::span<const std::byte> bytes) {
  if (start_ > 0) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
  buffer_.append(as_text(bytes));
}

void FrameDecoder::synchronise() {
  buffer_.clear();
  start_ = 0;
  skipped_ = 0;
  synchronising_ = true;
}

bool FrameDecoder::find_header() {
  while (buffer_.size() - start_ >= frame_header_bytes) {
    if (header_fault(std::string_view(buffer_).substr(start_, frame_header_bytes)).empty()) return true;
    const std::size_t candidate = buffer_.find(magic.front(), start_ + 1);
    const std::size_t next = candidate == std::string::npos ? buffer_.size() : candidate;
    skipped_ += next - start_;
    start_ = next;
    if (skipped_ > max_skipped_bytes) throw ProtocolError("no frame found in what the channel delivers");
  }
  return false;
}

std::optional<Frame> FrameDecoder::next() {
  if (synchronising_) {
    if (!find_header()) return std::nullopt;
  } else if (buffer_.size() - start_ < frame_header_bytes) {
    return std::nullopt;
  }
  const std::string_view rest = std::string_view(buffer_).substr(start_);
  if (const std::string fault = header_fault(rest.substr(0, frame_header_bytes)); !fault.empty())
    throw ProtocolError(fault);
  const std::uint32_t length = load_u32(rest.data() + 12);
  if (rest.size() < frame_header_bytes + length) return std::nullopt;
  Frame frame{static_cast<FrameType>(rest[4]), load_u32(rest.data() + 8),
              std::string(rest.substr(frame_header_bytes, length))};
  start_ += frame_header_bytes + length;
  synchronising_ = false;
  return frame;
}

}  // namespace stillpoint
