// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-content.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::size_t most_files = 64;  // each holds a descriptor
constexpr std::size_t most_pieces = 1024;
constexpr std::size_t most_bytes = std::size_t{8} << 20;
constexpr std::size_t longest_piece = std::size_t{1} << 20;
/// What lies between two pieces is read with them when it is no longer than this.
constexpr std::uint64_t gap_to_read = 16 << 10;

}  // namespace

void ContentQueue::add(UniqueFd file, const TreeEntry& entry) {
  if (files_.size() == most_files) flush();
  files_.push_back({std::move(file), Metadata(entry)});
  const int fd = files_.back().fd.get();
  // A link's target where a file stands for the link.
  const std::string& at_hand = entry.type == EntryType::symlink ? entry.target : entry.inline_content;
  if (!at_hand.empty()) {
    pwrite_all(fd, as_bytes(at_hand), 0, entry.path);
    bytes_written_ += at_hand.size();
  }
  const std::uint64_t disk_size = disk_.size();
  std::uint64_t reached = at_hand.size();
  for (const TreeEntry::FileExtent& extent : entry.extents) {
    if (extent.disk_offset > disk_size || extent.length > disk_size - extent.disk_offset)
      throw Corruption(fmt::format("{}: its content lies outside the disk", entry.path));
    if (extent.file_offset >= entry.size) break;
    const std::uint64_t asked = asked_.fetch_add(extent.length, std::memory_order_relaxed) + extent.length;
    // No file system shares blocks here: a small disk could fill the target.
    if (asked > disk_size) throw Corruption("its files hold more than the whole disk: blocks belong to several");
    const std::uint64_t length = std::min(extent.length, entry.size - extent.file_offset);
    for (std::uint64_t at = 0; at < length;) {
      const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(length - at, longest_piece));
      add_piece(extent.disk_offset + at, extent.file_offset + at, part, files_.size() - 1);
      at += part;
      // A long file goes in parts; it stays the last one, whose metadata comes when all is written.
      if (pieces_.size() >= most_pieces || piece_bytes_ >= most_bytes) write_pieces();
    }
    reached = extent.file_offset + length;
  }
  // A hole at the end, and the whole of an empty file.
  if (reached < entry.size && ::ftruncate(fd, static_cast<off_t>(entry.size)) != 0)
    throw_storage_errno(fmt::format("cannot make {} {} bytes long", entry.path, entry.size), errno);
}

void ContentQueue::add_piece(std::uint64_t disk_offset, std::uint64_t file_offset, std::size_t length,
                             std::size_t file) {
  pieces_.push_back({disk_offset, file_offset, length, file});
  piece_bytes_ += length;
}

void ContentQueue::read_pieces() {
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.disk_offset < b.disk_offset; });
  struct Run {
    std::uint64_t begin;
    std::uint64_t end;
    std::size_t at;
  };
  std::vector<Run> runs;
  std::size_t used = 0;
  for (Piece& piece : pieces_) {
    const std::uint64_t end = piece.disk_offset + piece.length;
    if (runs.empty() || piece.disk_offset > runs.back().end + gap_to_read || end > runs.back().begin + longest_piece) {
      if (!runs.empty()) used += static_cast<std::size_t>(runs.back().end - runs.back().begin);
      runs.push_back({piece.disk_offset, piece.disk_offset, used});
    }
    Run& run = runs.back();
    piece.at = run.at + static_cast<std::size_t>(piece.disk_offset - run.begin);
    run.end = std::max(run.end, end);
  }
  if (!runs.empty()) used += static_cast<std::size_t>(runs.back().end - runs.back().begin);
  if (storage_.size() < used) storage_.resize(used);
  std::vector<BlockReader::Request> requests;
  requests.reserve(runs.size());
  for (const Run& run : runs)
    requests.push_back({run.begin, std::span(storage_).subspan(run.at, static_cast<std::size_t>(run.end - run.begin))});
  disk_.pread_many(requests);
}

void ContentQueue::write_pieces() {
  if (pieces_.empty()) return;
  read_pieces();
  std::sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
    return a.file != b.file ? a.file < b.file : a.file_offset < b.file_offset;
  });
  for (const Piece& piece : pieces_) {
    pwrite_all(files_[piece.file].fd.get(), std::span(storage_).subspan(piece.at, piece.length), piece.file_offset,
               files_[piece.file].metadata.path);
    bytes_written_ += piece.length;
  }
  pieces_.clear();
  piece_bytes_ = 0;
}

void ContentQueue::flush() {
  write_pieces();
  // After the content: writing would clear set-user-ID bits and capabilities, and change the time.
  for (const File& file : files_)
    keeper_.apply(file.fd.get(), file.metadata);
  files_.clear();
}

}  // namespace stillpoint
