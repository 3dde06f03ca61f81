// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace stillpoint {

/// A byte range of a disk. `data` is false where it is known to read as zeros.
struct Extent {
  std::uint64_t offset = 0;  ///< bytes from the start of the disk
  std::uint64_t length = 0;  ///< bytes
  bool data = true;

  bool operator==(const Extent&) const = default;
};

/// A disk that can be read at any place: an NBD export, an RBD snapshot, a disk map of the repository.
class BlockReader {
 public:
  virtual ~BlockReader() = default;

  /// The disk's size in bytes.
  [[nodiscard]] virtual std::uint64_t size() const = 0;

  /// Fills `buffer` from `offset`; the range lies inside the disk. Throws CaptureError or Corruption.
  virtual void pread(std::span<std::byte> buffer, std::uint64_t offset) = 0;

  /// Fills several buffers, with several requests in flight where the implementation can. The default reads them in
  /// turn.
  struct Request {
    std::uint64_t offset;
    std::span<std::byte> buffer;
  };
  virtual void pread_many(std::span<const Request> requests) {
    for (const Request& request : requests)
      pread(request.buffer, request.offset);
  }

  /// What the range holds, in ascending order without gaps or overlaps; the range lies inside the disk. The default
  /// knows of no holes. May be cut short (never empty for a range that is not): ask again from where it ends.
  [[nodiscard]] virtual std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) {
    return {{offset, length, true}};
  }
};

/// A buffer out of a bounded pool; going out of scope returns it.
class ChunkBuffer {
 public:
  class Pool {
   public:
    virtual ~Pool() = default;
    virtual void give_back(std::byte* storage) noexcept = 0;
  };

  ChunkBuffer() = default;
  ChunkBuffer(Pool* pool, std::byte* storage, std::size_t length) noexcept
      : storage_(storage, Return{pool}), length_(length) {}

  [[nodiscard]] std::span<std::byte> bytes() noexcept { return {storage_.get(), length_}; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {storage_.get(), length_}; }
  explicit operator bool() const noexcept { return storage_ != nullptr; }

 private:
  struct Return {
    // Written out: a default member initialiser is not known yet where the class around this one asks for it.
    Return() noexcept : pool(nullptr) {}
    explicit Return(Pool* from) noexcept : pool(from) {}
    Pool* pool;
    void operator()(std::byte* storage) const noexcept { pool->give_back(storage); }
  };
  std::unique_ptr<std::byte, Return> storage_;
  std::size_t length_ = 0;
};

/// A changed part of a chunk counts in blocks of so many bytes: as many as QEMU's dirty bitmaps have in one bit.
inline constexpr std::uint32_t part_block_bytes = 64 << 10;

/// Where a disk's chunks go: the repository's side of the engine. One reader thread calls it, in ascending chunk order
/// for acquire(); submit() may come in any order as requests complete.
class ChunkSink {
 public:
  virtual ~ChunkSink() = default;

  /// Bytes of a chunk; the disk's last one may be shorter.
  [[nodiscard]] virtual std::uint32_t chunk_size() const = 0;

  /// How many buffers one reader may hold at once, at least 1. A reader never calls acquire() while it holds that many,
  /// so that acquire() only ever waits for the sink's own workers.
  [[nodiscard]] virtual std::size_t buffers_per_reader() const { return 64; }

  /// Waits for a free buffer for chunk `number`, as long as that chunk is: running out of buffers is the back-pressure.
  /// Throws what stopped the engine. Numbers ascend over all calls of acquire() and submit_zero().
  [[nodiscard]] virtual ChunkBuffer acquire(std::uint64_t number) = 0;

  /// Takes the filled buffer of chunk `number`.
  virtual void submit(std::uint64_t number, ChunkBuffer buffer) = 0;

  /// Some blocks of a chunk, in a buffer that holds them one after the other.
  struct Part {
    std::uint64_t blocks = 0;  ///< bit i: bytes from i * part_block_bytes on
    ChunkBuffer buffer{};
  };
  /// As acquire(), for a whole chunk of which only `blocks` are others than they were. Returns what the sink takes
  /// instead of the chunk, `blocks` and maybe more; nothing when it wants the chunk, which is acquired then.
  [[nodiscard]] virtual std::optional<Part> acquire_part(std::uint64_t number, std::uint64_t blocks) {
    static_cast<void>(number);
    static_cast<void>(blocks);
    return std::nullopt;
  }
  /// Takes the filled part of chunk `number`.
  virtual void submit_part(std::uint64_t number, Part part) {
    static_cast<void>(number);
    static_cast<void>(part);
  }

  /// Chunks [first, first + count) read as zeros.
  virtual void submit_zero(std::uint64_t first, std::uint64_t count) = 0;
};

/// Reports how far a capture is. Called from the reading thread, often: implementations are cheap.
class CaptureProgress {
 public:
  virtual ~CaptureProgress() = default;
  /// `done` of `total` bytes to read (data only, holes left out); total grows while the extents become known.
  virtual void advance(std::uint64_t done, std::uint64_t total) = 0;
};

}  // namespace stillpoint
