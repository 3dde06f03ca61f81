// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/guest-disk.hh"

#include "common/errors.hh"
#include "host/repository/ahead-reader.hh"

#include <utility>

namespace stillpoint {

namespace {

/// Each has a worker, and a worker does one thing at a time.
constexpr std::size_t most_readers = 2;
constexpr std::size_t ahead_cache_bytes = 16 << 20;
constexpr std::size_t structures_cache_bytes = 16 << 20;

}  // namespace

/// What a worker reads by, until everything is to end.
class GuestDisk::Stoppable : public BlockReader {
 public:
  Stoppable(BlockReader& blocks, std::stop_token stop) : blocks_(blocks), stop_(std::move(stop)) {}
  [[nodiscard]] std::uint64_t size() const override { return blocks_.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    if (stop_.stop_requested()) throw Interrupted("stopped");
    blocks_.pread(buffer, offset);
  }

 private:
  BlockReader& blocks_;
  std::stop_token stop_;
};

struct GuestDisk::Reader {
  Reader(BlockReader& structures, const std::stop_token& stop)
      : blocks(structures, stop), files(blocks), found(files.file_systems()) {}
  [[nodiscard]] const FileSystem& file_system(std::size_t number) const {
    if (number >= found.size()) throw NotFound("there is no such file system any more");
    return found[number];
  }
  Stoppable blocks;
  FileSystemReader files;
  std::vector<FileSystem> found;
};

/// A reader for the time of one question; waits for one.
class GuestDisk::Loan {
 public:
  explicit Loan(GuestDisk& disk) : disk_(disk) {
    std::unique_lock lock(disk_.mutex_);
    disk_.given_back_.wait(lock, [&] { return !disk_.idle_.empty() || disk_.readers_ < most_readers; });
    if (!disk_.idle_.empty()) {
      reader_ = std::move(disk_.idle_.back());
      disk_.idle_.pop_back();
      return;
    }
    ++disk_.readers_;
    lock.unlock();
    try {
      reader_ = std::make_unique<Reader>(*disk_.structures_, disk_.stop_);
    } catch (...) {
      lock.lock();
      --disk_.readers_;
      disk_.given_back_.notify_one();
      throw;
    }
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    const std::scoped_lock lock(disk_.mutex_);
    disk_.idle_.push_back(std::move(reader_));
    disk_.given_back_.notify_one();
  }
  [[nodiscard]] Reader* operator->() const noexcept { return reader_.get(); }

 private:
  GuestDisk& disk_;
  std::unique_ptr<Reader> reader_;
};

GuestDisk::GuestDisk(Repository& repository, const DiskMap& map, Crew& crew, std::stop_token stop)
    : GuestDisk(
          std::make_unique<AheadReader>(repository.open_disk(map), crew, repository.chunk_bytes(), ahead_cache_bytes),
          repository.open_disk(map, structures_cache_bytes), std::move(stop)) {}

GuestDisk::GuestDisk(std::unique_ptr<BlockReader> blocks, std::unique_ptr<BlockReader> structures, std::stop_token stop)
    : blocks_(std::move(blocks)), structures_(std::move(structures)), stop_(std::move(stop)) {
  idle_.reserve(most_readers);
}

GuestDisk::~GuestDisk() = default;

std::vector<FileSystem> GuestDisk::file_systems() {
  return Loan(*this)->found;
}

void GuestDisk::list(std::size_t file_system, std::string_view path, TreeSink& sink) {
  const Loan reader(*this);
  reader->files.walk(reader->file_system(file_system), path, false, sink);
}

std::optional<TreeEntry> GuestDisk::look(std::size_t file_system, std::string_view path) {
  const Loan reader(*this);
  return reader->files.look(reader->file_system(file_system), path);
}

}  // namespace stillpoint
