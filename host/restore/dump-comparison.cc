// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/dump-comparison.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/text.hh"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::size_t most_queued = std::size_t{4} << 20;
/// Of a line that differs.
constexpr std::size_t shown_bytes = 100;

/// Thrown through whoever reads the stored dump.
struct NotWanted {};

std::string shown_line(std::string_view before, std::string_view rest) {
  std::string line(before);
  line += rest.substr(0, rest.find('\n'));
  const bool cut = line.size() > shown_bytes;
  return fmt::format("'{}{}'", printable(std::string_view(line).substr(0, shown_bytes)), cut ? "..." : "");
}

}  // namespace

DumpComparison::DumpComparison(std::function<void(const Consumer&)> read)
    : other_([this](std::string_view bytes) { compare(bytes); }),
      reader_([this, read = std::move(read)] { read_stored(read); }) {}

DumpComparison::~DumpComparison() {
  stop();
}

void DumpComparison::read_stored(const std::function<void(const Consumer&)>& read) {
  std::exception_ptr failure;
  try {
    ComparableDump stored([this](std::string_view bytes) { push(bytes); });
    read([&](std::span<const std::byte> bytes) { stored.write(as_text(bytes)); });
    stored.end();
  } catch (const NotWanted&) {
    // It is known that they differ.
  } catch (...) {
    failure = std::current_exception();
  }
  const std::scoped_lock lock(mutex_);
  failure_ = failure;
  ended_ = true;
  changed_.notify_all();
}

void DumpComparison::push(std::string_view bytes) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.size() < most_queued || stopped_; });
  if (stopped_) throw NotWanted();
  queue_ += bytes;
  lock.unlock();
  changed_.notify_all();
}

/// Takes what there is of the stored dump; false at its end.
bool DumpComparison::pull() {
  if (at_ < stored_.size()) return true;
  stored_.clear();
  at_ = 0;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !queue_.empty() || ended_; });
  if (queue_.empty() && failure_) std::rethrow_exception(failure_);
  std::swap(stored_, queue_);
  lock.unlock();
  changed_.notify_all();
  return !stored_.empty();
}

void DumpComparison::stop() noexcept {
  const std::scoped_lock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

void DumpComparison::write(std::span<const std::byte> bytes) {
  bytes_ += bytes.size();
  if (!difference_.empty() || broken_) return;
  try {
    other_.write(as_text(bytes));
  } catch (...) {
    broken_ = std::current_exception();
  }
}

void DumpComparison::compare(std::string_view bytes) {
  while (!bytes.empty() && difference_.empty()) {
    if (!pull()) return differ(bytes);
    const std::string_view stored = std::string_view(stored_).substr(at_, bytes.size());
    const std::string_view here = bytes.substr(0, stored.size());
    const auto same = static_cast<std::size_t>(std::ranges::mismatch(stored, here).in1 - stored.begin());
    const std::string_view equal = here.substr(0, same);
    lines_ += static_cast<std::uint64_t>(std::ranges::count(equal, '\n'));
    if (const std::size_t newline = equal.rfind('\n'); newline == std::string_view::npos)
      line_ += equal.substr(0, shown_bytes - std::min(shown_bytes, line_.size()));
    else
      line_ = equal.substr(newline + 1, shown_bytes);
    at_ += same;
    bytes.remove_prefix(same);
    if (same < stored.size()) return differ(bytes);
  }
}

/// `here`: from the first byte that differs on; empty at the end of the other dump.
void DumpComparison::differ(std::string_view here) {
  const bool stored_ends = !pull();
  difference_ = fmt::format("differs in line {}: stored {}, recovered {}", lines_,
                            stored_ends ? "it ends there" : shown_line(line_, std::string_view(stored_).substr(at_)),
                            here.empty() ? "it ends there" : shown_line(line_, here));
  stop();
}

std::string DumpComparison::finish() {
  if (broken_) std::rethrow_exception(broken_);
  if (difference_.empty()) other_.end();
  if (difference_.empty() && pull()) differ({});
  return difference_;
}

}  // namespace stillpoint
