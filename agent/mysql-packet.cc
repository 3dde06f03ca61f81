// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-packet.hh"

#include <algorithm>
#include <cctype>
#include <stdexcept>

namespace stillpoint::mysql {
namespace {

constexpr char command_query = 0x03;
constexpr std::uint16_t status_in_transaction = 0x0001;
constexpr unsigned progress_report_code = 0xFFFF;
constexpr std::size_t sql_state_bytes = 6;  // '#' and five characters

std::uint8_t byte_at(std::string_view text, std::size_t place) {
  return static_cast<std::uint8_t>(text[place]);
}

/// Steps over a length-encoded integer; false when the payload ends before it does.
bool skip_integer(std::string_view& payload) {
  if (payload.empty()) return false;
  const std::uint8_t first = byte_at(payload, 0);
  const std::size_t bytes = first < 0xFB ? 1 : first == 0xFC ? 3 : first == 0xFD ? 4 : first == 0xFE ? 9 : 0;
  if (bytes == 0 || payload.size() < bytes) return false;
  payload.remove_prefix(bytes);
  return true;
}

std::string upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return result;
}

}  // namespace

void PacketScanner::begin_packet() {
  head_.clear();
  length_ = 0;
  first_part_ = true;
  complete_ = false;
}

std::size_t PacketScanner::feed(std::span<const std::byte> bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size()) {
    if (complete_) begin_packet();
    if (header_filled_ < packet_header_bytes) {
      header_[header_filled_++] = static_cast<std::uint8_t>(bytes[taken++]);
      if (header_filled_ < packet_header_bytes) continue;
      part_left_ = header_[0] | std::size_t{header_[1]} << 8 | std::size_t{header_[2]} << 16;
      part_is_full_ = part_left_ == max_packet_payload;
      if (first_part_) sequence_ = header_[3];
      first_part_ = false;
    }
    const std::size_t part = std::min(part_left_, bytes.size() - taken);
    const std::size_t kept = std::min(part, head_limit - head_.size());
    head_.append(reinterpret_cast<const char*>(bytes.data()) + taken, kept);
    taken += part;
    length_ += part;
    part_left_ -= part;
    if (part_left_ > 0) continue;
    header_filled_ = 0;
    if (part_is_full_) continue;
    complete_ = true;
    break;
  }
  return taken;
}

bool opens_snapshot(std::string_view payload) {
  if (payload.empty() || payload[0] != command_query) return false;
  payload.remove_prefix(1);
  // Clients with query attributes say first that there are none: a count of 0 in a set of 1.
  if (payload.size() > 2 && payload[0] == 0 && payload[1] == 1) payload.remove_prefix(2);
  while (!payload.empty() && std::isspace(static_cast<unsigned char>(payload[0])) != 0)
    payload.remove_prefix(1);
  const std::string text = upper(payload.substr(0, 256));
  return text.starts_with("START TRANSACTION") && text.find("WITH CONSISTENT SNAPSHOT") != std::string::npos;
}

Answer parse_answer(std::string_view payload) {
  Answer answer;
  if (payload.empty()) return answer;
  const std::uint8_t first = byte_at(payload, 0);
  payload.remove_prefix(1);
  if (first == 0x00) {
    if (!skip_integer(payload) || !skip_integer(payload) || payload.size() < 2) return answer;
    const auto status = static_cast<std::uint16_t>(byte_at(payload, 0) | byte_at(payload, 1) << 8);
    answer.kind = Answer::Kind::ok;
    answer.in_transaction = (status & status_in_transaction) != 0;
  } else if (first == 0xFF && payload.size() >= 2) {
    answer.code = static_cast<unsigned>(byte_at(payload, 0) | byte_at(payload, 1) << 8);
    answer.kind = answer.code == progress_report_code ? Answer::Kind::progress : Answer::Kind::error;
    payload.remove_prefix(2);
    if (payload.size() >= sql_state_bytes && payload[0] == '#') payload.remove_prefix(sql_state_bytes);
    answer.message = payload.substr(0, 512);
  }
  return answer;
}

std::string query_packet(std::string_view sql) {
  const std::size_t length = sql.size() + 1;
  if (length >= max_packet_payload) throw std::length_error("a statement of the agent does not fit into a packet");
  std::string packet;
  packet.reserve(packet_header_bytes + length);
  for (unsigned shift = 0; shift < 24; shift += 8)
    packet.push_back(static_cast<char>(length >> shift & 0xFF));
  packet.push_back(0);
  packet.push_back(command_query);
  packet.append(sql);
  return packet;
}

std::uint32_t client_capabilities(std::string_view payload) {
  if (payload.size() < 4) return 0;
  std::uint32_t result = 0;
  for (unsigned place = 0; place < 4; ++place)
    result |= std::uint32_t{byte_at(payload, place)} << (8 * place);
  return result;
}

}  // namespace stillpoint::mysql
