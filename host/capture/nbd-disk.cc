// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/nbd-disk.hh"

#include "common/errors.hh"
#include "host/capture/nbd-session.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::uint32_t dirty_flag = 1;  // of QEMU's dirty bitmap contexts
constexpr std::size_t most_requests = 64;
constexpr std::size_t most_bytes_in_flight = std::size_t{16} << 20;
constexpr std::uint64_t most_status_bytes = std::uint64_t{1} << 30;
/// Bounds what a server may make us remember; the answer may be cut short.
constexpr std::size_t most_status_extents = std::size_t{1} << 18;

/// One call of start_read(): sent as one request or, where the server's limits ask for it, as several.
struct Read {
  std::uint64_t tag = 0;
  std::uint64_t offset = 0;
  std::span<std::byte> buffer;
  std::vector<std::byte> bounce;  ///< where the range does not lie on the server's block boundaries
  std::size_t skip = 0;           ///< bytes of `bounce` before the range
  std::size_t requests = 0;       ///< not yet answered
  int error = 0;
  std::vector<Read*>* finished = nullptr;
};

int read_answered(void* user, int* error) noexcept {
  auto* read = static_cast<Read*>(user);
  if (*error != 0 && read->error == 0) read->error = *error;
  // start_read() made room.
  if (--read->requests == 0) read->finished->push_back(read);
  return 1;
}

struct Status {
  std::string context;
  std::vector<Extent> extents;
  std::uint32_t flag = 0;      ///< of an entry
  bool data_when_set = false;  ///< whether the flag set means data
  bool answered = false;
  int error = 0;
};

int status_told(void* user, const char* context, std::uint64_t offset, std::uint32_t* entries, std::size_t count,
                int* error) noexcept {
  auto* status = static_cast<Status*>(user);
  if (status->context != context) return 0;
  try {
    for (std::size_t i = 0; i + 1 < count; i += 2) {
      const std::uint64_t length = entries[i];
      const bool data = ((entries[i + 1] & status->flag) != 0) == status->data_when_set;
      if (length == 0) continue;
      auto& extents = status->extents;
      if (!extents.empty() && extents.back().data == data) {
        extents.back().length += length;
      } else {
        if (extents.size() == most_status_extents) break;
        extents.push_back({offset, length, data});
      }
      offset += length;
    }
  } catch (const std::bad_alloc&) {
    *error = ENOMEM;
    return -1;
  }
  return 0;
}

int status_answered(void* user, int* error) noexcept {
  auto* status = static_cast<Status*>(user);
  status->error = *error;
  status->answered = true;
  return 1;
}

}  // namespace

class NbdDisk::Session {
 public:
  Session(const std::filesystem::path& socket, std::string_view export_name, std::string_view dirty_bitmap,
          std::chrono::milliseconds answer_limit)
      : bitmap_(dirty_bitmap), nbd_(socket, export_name, contexts(dirty_bitmap), answer_limit) {
    learn_contexts();
  }
  Session(const std::filesystem::path& image, std::string_view format)
      : nbd_(image, format, NbdSession::Access::read_only) {
    learn_contexts();
  }

  [[nodiscard]] std::uint64_t size() const { return nbd_.size(); }
  [[nodiscard]] bool has_dirty_bitmap() const { return knows_dirty_; }
  [[nodiscard]] std::size_t in_flight() const { return reads_.size() - free_.size(); }

  void start(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag);
  std::optional<std::uint64_t> next(std::chrono::milliseconds patience);
  void read_all(std::span<const Request> requests);
  std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length);
  std::vector<Extent> dirty_extents(std::uint64_t offset, std::uint64_t length);
  void abandon() noexcept { nbd_.abandon(); }

 private:
  static std::vector<std::string> contexts(std::string_view dirty_bitmap) {
    std::vector<std::string> result = {LIBNBD_CONTEXT_BASE_ALLOCATION};
    if (!dirty_bitmap.empty()) result.emplace_back(dirty_bitmap);
    return result;
  }
  void learn_contexts() {
    knows_allocation_ = nbd_.has_context(LIBNBD_CONTEXT_BASE_ALLOCATION);
    knows_dirty_ = !bitmap_.empty() && nbd_.has_context(bitmap_);
  }
  void check_range(std::uint64_t offset, std::uint64_t length) const;
  Read& free_read();
  void send(Read& read, std::span<std::byte> into, std::uint64_t offset);
  std::uint64_t finish(Read& read);
  std::vector<Extent> ask_status(Status& status, std::uint64_t offset, std::uint64_t length);

  std::string bitmap_;
  bool knows_allocation_ = false;
  bool knows_dirty_ = false;
  std::vector<std::unique_ptr<Read>> reads_;
  std::vector<Read*> free_;
  std::vector<Read*> finished_;
  std::vector<std::unique_ptr<Status>> unanswered_;  ///< of failed calls: the session may still write to them
  NbdSession nbd_;                                   ///< last: its end lets go of everything above
};

void NbdDisk::Session::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (nbd_.get() == nullptr) throw CaptureError(fmt::format("{}: the session has ended", nbd_.name()));
  if (offset > size() || length > size() - offset)
    throw CaptureError(fmt::format("{}: {} bytes at {} lie outside its {} bytes", nbd_.name(), length, offset, size()));
}

Read& NbdDisk::Session::free_read() {
  if (free_.empty()) {
    finished_.reserve(reads_.size() + 1);
    free_.reserve(reads_.size() + 1);
    reads_.push_back(std::make_unique<Read>());
    return *reads_.back();
  }
  Read& read = *free_.back();
  free_.pop_back();
  return read;
}

void NbdDisk::Session::send(Read& read, std::span<std::byte> into, std::uint64_t offset) {
  while (!into.empty()) {
    const auto part = into.first(std::min<std::size_t>(into.size(), nbd_.max_request()));
    const nbd_completion_callback answered = {read_answered, &read, nullptr};
    ++read.requests;
    if (nbd_aio_pread(nbd_.get(), part.data(), part.size(), offset, answered, 0) < 0) {
      const std::string reason = nbd_get_error();
      nbd_.abandon();
      throw CaptureError(fmt::format("{}: cannot read at {}: {}", nbd_.name(), offset, reason));
    }
    into = into.subspan(part.size());
    offset += part.size();
  }
}

void NbdDisk::Session::start(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) {
  check_range(offset, buffer.size());
  if (in_flight() == 0) nbd_.asked();
  Read& read = free_read();
  read.tag = tag;
  read.offset = offset;
  read.buffer = buffer;
  read.skip = static_cast<std::size_t>(offset % nbd_.block());
  // One more than sent: answers may come while further requests are being sent.
  read.requests = 1;
  read.error = 0;
  read.finished = &finished_;
  const std::size_t reach = read.skip + buffer.size();
  if (read.skip == 0 && reach % nbd_.block() == 0) {
    send(read, buffer, offset);
  } else {
    read.bounce.resize((reach + nbd_.block() - 1) / nbd_.block() * nbd_.block());
    send(read, read.bounce, offset - read.skip);
  }
  if (--read.requests == 0) finished_.push_back(&read);
}

std::uint64_t NbdDisk::Session::finish(Read& read) {
  if (read.error != 0) {
    nbd_.abandon();
    throw CaptureError(errno_message(
        fmt::format("{}: cannot read {} bytes at {}", nbd_.name(), read.buffer.size(), read.offset), read.error));
  }
  if (!read.bounce.empty()) {
    std::memcpy(read.buffer.data(), read.bounce.data() + read.skip, read.buffer.size());
    read.bounce = {};
  }
  free_.push_back(&read);
  return read.tag;
}

std::optional<std::uint64_t> NbdDisk::Session::next(std::chrono::milliseconds patience) {
  if (finished_.empty() && in_flight() > 0) nbd_.work(patience);
  if (finished_.empty()) return std::nullopt;
  Read* read = finished_.front();
  finished_.erase(finished_.begin());
  return finish(*read);
}

void NbdDisk::Session::read_all(std::span<const Request> requests) {
  check_range(0, 0);
  if (in_flight() != 0) throw std::logic_error("pread_many() beside reads in flight");
  std::size_t bytes = 0;
  try {
    for (const Request& request : requests) {
      while (in_flight() > 0 && (in_flight() == most_requests || bytes + request.buffer.size() > most_bytes_in_flight))
        if (const auto length = next(nbd_answer_limit)) bytes -= *length;
      start(request.buffer, request.offset, request.buffer.size());
      bytes += request.buffer.size();
    }
    while (in_flight() > 0)
      static_cast<void>(next(nbd_answer_limit));
  } catch (...) {
    nbd_.abandon();  // the buffers are the caller's
    throw;
  }
}

std::vector<Extent> NbdDisk::Session::extents(std::uint64_t offset, std::uint64_t length) {
  check_range(offset, length);
  if (length == 0) return {};
  if (!knows_allocation_) return {{offset, length, true}};
  auto status = std::make_unique<Status>();
  status->context = LIBNBD_CONTEXT_BASE_ALLOCATION;
  status->flag = LIBNBD_STATE_ZERO;
  unanswered_.push_back(std::move(status));
  return ask_status(*unanswered_.back(), offset, length);
}

std::vector<Extent> NbdDisk::Session::dirty_extents(std::uint64_t offset, std::uint64_t length) {
  check_range(offset, length);
  if (length == 0) return {};
  if (!knows_dirty_) throw CaptureError(fmt::format("{}: it has no dirty bitmap", nbd_.name()));
  auto status = std::make_unique<Status>();
  status->context = bitmap_;
  status->flag = dirty_flag;
  status->data_when_set = true;
  unanswered_.push_back(std::move(status));
  return ask_status(*unanswered_.back(), offset, length);
}

std::vector<Extent> NbdDisk::Session::ask_status(Status& status, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t block = nbd_.block();
  const std::uint64_t begin = offset / block * block;
  const std::uint64_t end = std::min(offset + length, begin + most_status_bytes);
  const std::uint64_t asked = (end - begin + block - 1) / block * block;
  const nbd_extent_callback told = {status_told, &status, nullptr};
  const nbd_completion_callback answered = {status_answered, &status, nullptr};
  if (in_flight() == 0) nbd_.asked();
  if (nbd_aio_block_status(nbd_.get(), asked, begin, told, answered, 0) < 0)
    nbd_.fail(fmt::format("cannot learn its extents at {}", offset));
  while (!status.answered)
    nbd_.work(nbd_answer_limit);
  if (status.error != 0) {
    nbd_.abandon();
    throw CaptureError(
        errno_message(fmt::format("{}: cannot learn its extents at {}", nbd_.name(), offset), status.error));
  }
  std::vector<Extent> result;
  for (const Extent& extent : status.extents) {
    const std::uint64_t from = std::max(extent.offset, offset);
    const std::uint64_t to = std::min(extent.offset + extent.length, end);
    if (from < to) result.push_back({from, to - from, extent.data});
  }
  // A server that tells nothing: all of it may be data.
  if (result.empty()) result.push_back({offset, end - offset, true});
  unanswered_.clear();
  return result;
}

NbdDisk::NbdDisk(const std::filesystem::path& socket, std::string_view export_name, std::string_view dirty_bitmap,
                 std::chrono::milliseconds answer_limit)
    : session_(std::make_unique<Session>(socket, export_name, dirty_bitmap, answer_limit)) {}
NbdDisk::NbdDisk(std::unique_ptr<Session> session) noexcept : session_(std::move(session)) {}
NbdDisk NbdDisk::image(const std::filesystem::path& path, std::string_view format) {
  return NbdDisk(std::make_unique<Session>(path, format));
}
NbdDisk::NbdDisk(NbdDisk&&) noexcept = default;
NbdDisk& NbdDisk::operator=(NbdDisk&&) noexcept = default;
NbdDisk::~NbdDisk() = default;

std::uint64_t NbdDisk::size() const {
  return session_->size();
}
void NbdDisk::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  const Request request{offset, buffer};
  session_->read_all({&request, 1});
}
void NbdDisk::pread_many(std::span<const Request> requests) {
  session_->read_all(requests);
}
std::vector<Extent> NbdDisk::extents(std::uint64_t offset, std::uint64_t length) {
  return session_->extents(offset, length);
}
void NbdDisk::start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) {
  session_->start(buffer, offset, tag);
}
std::optional<std::uint64_t> NbdDisk::next_read(std::chrono::milliseconds patience) {
  return session_->next(patience);
}
std::size_t NbdDisk::reads_in_flight() const {
  return session_->in_flight();
}
void NbdDisk::abandon() noexcept {
  session_->abandon();
}
bool NbdDisk::has_dirty_bitmap() const {
  return session_->has_dirty_bitmap();
}
std::vector<Extent> NbdDisk::dirty_extents(std::uint64_t offset, std::uint64_t length) {
  return session_->dirty_extents(offset, length);
}

}  // namespace stillpoint
