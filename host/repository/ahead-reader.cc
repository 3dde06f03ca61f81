// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/ahead-reader.hh"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace stillpoint {

/// Reads a piece that is likely to be asked for. Whoever does ask for it is told what is wrong with it.
class AheadReader::ReadJob : public Job {
 public:
  ReadJob(AheadReader& reader, std::uint64_t number) : reader_(reader), number_(number) { reader_.jobs_.begin(); }
  ReadJob(const ReadJob&) = delete;
  ReadJob& operator=(const ReadJob&) = delete;
  ~ReadJob() override { reader_.jobs_.end(); }
  void run() noexcept override {
    try {
      static_cast<void>(reader_.piece(number_));
    } catch (...) {  // NOLINT(bugprone-empty-catch): see above
    }
    const std::scoped_lock lock(reader_.mutex_);
    reader_.posted_.erase(number_);
  }

 private:
  AheadReader& reader_;
  std::uint64_t number_;
};

AheadReader::AheadReader(std::unique_ptr<BlockReader> blocks, Crew& crew, std::uint32_t piece_bytes,
                         std::size_t cache_bytes)
    : blocks_(std::move(blocks)),
      crew_(crew),
      piece_bytes_(piece_bytes),
      pieces_(blocks_->size() / piece_bytes + (blocks_->size() % piece_bytes != 0 ? 1 : 0)),
      // What is read ahead must not drive out what it is read ahead of.
      most_ahead_(std::clamp<std::uint64_t>(cache_bytes / piece_bytes / 4, 1, 4 * crew.size())),
      cache_(cache_bytes) {
  recent_.fill(UINT64_MAX);
}

AheadReader::~AheadReader() {
  jobs_.wait();
}

std::shared_ptr<AheadReader::Piece> AheadReader::piece(std::uint64_t number) {
  return cache_.get(number, [&] {
    const std::uint64_t begin = number * piece_bytes_;
    auto bytes = std::make_shared<std::vector<std::byte>>(std::min<std::uint64_t>(piece_bytes_, size() - begin));
    blocks_->pread(*bytes, begin);
    return SharedCache<std::uint64_t, Piece>::Made{bytes, bytes->size()};
  });
}

/// Whether a read of that piece goes on where another one ended.
bool AheadReader::follows(std::uint64_t number) {
  const auto is_recent = [this](std::uint64_t n) { return std::ranges::find(recent_, n) != recent_.end(); };
  if (!is_recent(number)) recent_[oldest_++ % recent_.size()] = number;
  return number > 0 && is_recent(number - 1);
}

/// `last`: of the read that begins with that piece.
void AheadReader::look_ahead(std::uint64_t number, std::uint64_t last) {
  const std::scoped_lock lock(mutex_);
  const std::uint64_t wanted = follows(number) ? pieces_ - 1 : last;
  const std::uint64_t end = std::min(wanted, number + most_ahead_);
  while (++number <= end)
    if (!cache_.holds(number) && posted_.insert(number).second) crew_.post(std::make_unique<ReadJob>(*this, number));
}

void AheadReader::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  if (offset > size() || buffer.size() > size() - offset) throw std::out_of_range("a range behind the end of the disk");
  if (buffer.empty()) return;
  const std::uint64_t last = (offset + buffer.size() - 1) / piece_bytes_;
  for (std::uint64_t number = offset / piece_bytes_; number <= last; ++number) {
    look_ahead(number, last);
    const std::shared_ptr<Piece> bytes = piece(number);
    const std::size_t from = offset - number * piece_bytes_;
    const std::size_t count = std::min(buffer.size(), bytes->size() - from);
    std::memcpy(buffer.data(), bytes->data() + from, count);
    buffer = buffer.subspan(count);
    offset += count;
  }
}

}  // namespace stillpoint
