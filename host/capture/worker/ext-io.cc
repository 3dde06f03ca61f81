// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/ext-io.hh"

#include "common/errors.hh"

#include <et/com_err.h>
#include <fmt/format.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <span>

namespace stillpoint {
namespace {

/// Where libext2fs reads. One file system is open at a time, and its interface passes nothing else through.
struct Source {
  BlockService* blocks = nullptr;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  JournalOverlay overlay;
};
Source source;

io_manager manager();

errcode_t open_channel(const char* name, int flags, io_channel* channel) noexcept {
  if ((flags & IO_FLAG_RW) != 0) return EXT2_ET_RO_FILSYS;
  auto* made = static_cast<io_channel>(std::calloc(1, sizeof(struct_io_channel)));
  if (made == nullptr) return EXT2_ET_NO_MEMORY;
  made->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  made->manager = manager();
  made->name = ::strdup(name);
  made->block_size = 1024;
  made->refcount = 1;
  *channel = made;
  return 0;
}

errcode_t close_channel(io_channel channel) noexcept {
  if (--channel->refcount > 0) return 0;
  std::free(channel->name);
  std::free(channel);
  return 0;
}

errcode_t set_block_size(io_channel channel, int size) noexcept {
  if (size < 1024 || size > 65536) return EXT2_ET_INVALID_ARGUMENT;
  channel->block_size = size;
  return 0;
}

/// `count` below zero means bytes.
errcode_t read_blocks(io_channel channel, unsigned long long block, int count, void* data) noexcept {
  const auto block_size = static_cast<std::uint64_t>(channel->block_size);
  const std::uint64_t bytes = count < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(std::int64_t{count})
                                        : static_cast<std::uint64_t>(count) * block_size;
  if (block > source.length / block_size) return EXT2_ET_SHORT_READ;
  const std::uint64_t at = block * block_size;
  if (bytes > source.length - at) return EXT2_ET_SHORT_READ;
  try {
    const std::span<std::byte> buffer(static_cast<std::byte*>(data), static_cast<std::size_t>(bytes));
    return source.blocks->read(buffer, source.offset + at) && source.overlay.apply(*source.blocks, buffer, at)
               ? 0
               : EXT2_ET_SHORT_READ;
  } catch (...) {
    return EXT2_ET_NO_MEMORY;
  }
}

errcode_t read_blocks_32(io_channel channel, unsigned long block, int count, void* data) noexcept {
  return read_blocks(channel, block, count, data);
}
errcode_t refuse_write(io_channel, unsigned long, int, const void*) noexcept {
  return EXT2_ET_RO_FILSYS;
}
errcode_t refuse_write_64(io_channel, unsigned long long, int, const void*) noexcept {
  return EXT2_ET_RO_FILSYS;
}
errcode_t flush(io_channel) noexcept {
  return 0;
}

io_manager manager() {
  static struct_io_manager made = [] {
    struct_io_manager m{};
    m.magic = EXT2_ET_MAGIC_IO_MANAGER;
    m.name = "stillpoint";
    m.open = open_channel;
    m.close = close_channel;
    m.set_blksize = set_block_size;
    m.read_blk = read_blocks_32;
    m.read_blk64 = read_blocks;
    m.write_blk = refuse_write;
    m.write_blk64 = refuse_write_64;
    m.flush = flush;
    return m;
  }();
  return &made;
}

ExtFileSystem open_source(int flags) {
  ext2_filsys opened = nullptr;
  const errcode_t error = ext2fs_open2("disk", nullptr, EXT2_FLAG_64BITS | flags, 0, 0, manager(), &opened);
  if (error != 0) throw CaptureError(fmt::format("the file system cannot be opened: {}", error_message(error)));
  return ExtFileSystem(opened);
}

}  // namespace

ExtFileSystem open_ext(BlockService& blocks, std::uint64_t offset, std::uint64_t length) {
  // What its journal says is the same at every question.
  if (source.blocks != &blocks || source.offset != offset || source.length != length)
    source = {&blocks, offset, length, {}};
  // Until the journal is replayed, checksums may be wrong.
  ExtFileSystem first = open_source(source.overlay.is_empty() ? EXT2_FLAG_IGNORE_CSUM_ERRORS : 0);
  if (!source.overlay.is_empty()) return first;
  if (ext2fs_has_feature_journal_needs_recovery(first->super) != 0)
    source.overlay = JournalOverlay::read(blocks, first.get(), offset);
  first.reset();
  return open_source(0);
}

const JournalOverlay& ext_overlay() {
  return source.overlay;
}

}  // namespace stillpoint
