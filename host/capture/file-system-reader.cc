// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/file-system-reader.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "common/text.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-worker.hh"
#include "host/capture/walk-receiver.hh"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::size_t most_warnings = 100;

/// Keeps the first entry of a walk: what the path names.
class FirstEntry : public TreeSink {
 public:
  void entry(const TreeEntry& entry) override {
    if (!first_) first_ = entry;
  }
  [[nodiscard]] std::optional<TreeEntry> take() { return std::move(first_); }

 private:
  std::optional<TreeEntry> first_;
};

}  // namespace

class FileSystemReader::Worker : public TreeWorker {};

FileSystemReader::FileSystemReader(BlockReader& disk) : disk_(disk) {}
FileSystemReader::~FileSystemReader() = default;

FileSystemReader::Worker& FileSystemReader::worker() {
  if (!worker_) worker_ = std::make_unique<Worker>();
  return *worker_;
}

void FileSystemReader::warn(std::string_view text) {
  if (warnings_.size() < most_warnings) warnings_.push_back(printable(text));
}

std::vector<FileSystem> FileSystemReader::file_systems() {
  try {
    wire::Writer request(wire::Type::list);
    request.u64(disk_.size());
    worker().send(request.finish());
    const wire::Message& answer = worker().receive(disk_);
    wire::Reader reader(answer.payload);
    if (answer.type == wire::Type::failure) throw CaptureError(printable(reader.string(wire::max_text)));
    if (answer.type != wire::Type::file_systems) throw CaptureError("the file system's worker gave another answer");
    const std::uint32_t count = reader.u32();
    if (count > wire::max_file_systems) throw CaptureError("the file system's worker sent too many file systems");
    std::vector<FileSystem> list;
    for (std::uint32_t i = 0; i < count; ++i) {
      FileSystem found;
      found.number = i;
      found.partition = reader.u32();
      found.offset = reader.u64();
      found.length = reader.u64();
      if (found.offset > disk_.size() || found.length > disk_.size() - found.offset)
        throw CaptureError("the file system's worker sent a file system outside the disk");
      found.type = printable(reader.string(32));
      found.uuid = printable(reader.string(64));
      found.label = printable(reader.string(64));
      found.clean = reader.u8() != 0;
      list.push_back(std::move(found));
    }
    return list;
  } catch (...) {
    worker_.reset();
    throw;
  }
}

void FileSystemReader::walk(const FileSystem& file_system, std::string_view path, bool recursive, TreeSink& sink) {
  const std::string start = clean_path(path);
  try {
    wire::Writer request(wire::Type::walk);
    request.u64(disk_.size());
    request.u64(file_system.offset);
    request.u64(file_system.length);
    request.string(start);
    request.u8(recursive ? 1 : 0);
    worker().send(request.finish());
    WalkReceiver receiver(start, disk_.size(), sink);
    for (;;) {
      const wire::Message& message = worker().receive(disk_);
      if (message.type == wire::Type::warning)
        warn(wire::Reader(message.payload).string(wire::max_text));
      else if (!receiver.take(message))
        return;
    }
  } catch (const NotFound&) {
    throw;  // the worker has said all
  } catch (...) {
    // It may be in the middle of something: the next question is for a new one.
    worker_.reset();
    throw;
  }
}

std::optional<TreeEntry> FileSystemReader::look(const FileSystem& file_system, std::string_view path) {
  FirstEntry first;
  try {
    walk(file_system, path, false, first);
  } catch (const NotFound&) {
    return std::nullopt;
  }
  return first.take();
}

}  // namespace stillpoint
