// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/dump-stream.hh"

#include "common/errors.hh"
#include "common/frame.hh"

#include <unistd.h>

#include <algorithm>
#include <array>

namespace stillpoint {

namespace {

/// For a tool that has closed its output to exit.
constexpr std::chrono::seconds exit_limit{30};
/// More than any dump; keeps sums from overflowing.
constexpr std::uint64_t most_credit = std::uint64_t{1} << 60;
/// What is read in one go: the other streams get their turn in between.
constexpr std::size_t piece_bytes = 64 << 10;
static_assert(piece_bytes <= max_data_bytes);

}  // namespace

DumpStream::DumpStream(std::shared_ptr<RunningDump> dump, Output output)
    : dump_(std::move(dump)), output_(std::move(output)) {}

DumpStream::~DumpStream() {
  source_.reset();
  run_blocking({[dump = std::move(dump_)]() mutable { dump.reset(); }}, [](const std::vector<std::string>&) {});
}

void DumpStream::add_credit(std::uint64_t bytes) {
  credit_ = std::min(credit_ + std::min(bytes, most_credit), most_credit);
  update();
}

void DumpStream::resume() {
  update();
}

/// Watches the tool's output exactly while something of it could be sent.
void DumpStream::update() {
  const bool wanted = !ended_ && credit_ > 0 && output_.has_room();
  if (!wanted) return source_.reset();
  if (!source_) source_ = Source::watch(dump_->output(), G_IO_IN, [this](GIOCondition) { read(); });
}

void DumpStream::read() {
  // Another stream may have filled the queue: beyond its limit, sending can end the connection, and us with it.
  if (!output_.has_room()) return source_.reset();
  std::array<char, piece_bytes> buffer;
  const auto most = static_cast<std::size_t>(std::min<std::uint64_t>(credit_, buffer.size()));
  const ssize_t n = ::read(dump_->output(), buffer.data(), most);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return ended();
  credit_ -= static_cast<std::uint64_t>(n);
  sent_ += static_cast<std::uint64_t>(n);
  output_.send({buffer.data(), static_cast<std::size_t>(n)});
  update();
}

void DumpStream::ended() {
  ended_ = true;
  source_.reset();
  const auto failure = std::make_shared<std::string>();
  run_blocking({[dump = dump_, failure] { *failure = dump->finish(Deadline(exit_limit)); }},
               [end = output_.end, sent = sent_, failure](const std::vector<std::string>& failures) {
                 end(sent, failures[0].empty() ? *failure : failures[0]);
               });
}

}  // namespace stillpoint
