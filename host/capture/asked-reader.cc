// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/asked-reader.hh"

#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/walk-receiver.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <utility>

namespace stillpoint {

/// The worker with the blocks that it reads.
class AskedReader::Worker {
 public:
  Worker(WorkerProgram program, std::vector<DiskPart> parts)
      : words(program.words), disks_(std::move(parts)), worker_(std::move(program)) {}

  /// The answer is valid until the next question.
  const wire::Message& ask(wire::Writer& question) {
    worker_.send(question.finish());
    return receive();
  }
  const wire::Message& receive() { return worker_.receive(disks_); }
  [[noreturn]] void refuse() const { throw CaptureError(fmt::format("{} gave another answer", words)); }

  const std::string words;

 private:
  AssembledDisk disks_;
  TreeWorker worker_;
};

/// Contents of files, one after the other.
class AskedReader::Content : public BlockReader {
 public:
  explicit Content(AskedReader& reader) : reader_(reader) {}

  [[nodiscard]] std::uint64_t size() const override { return INT64_MAX; }

  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    const std::lock_guard lock(reader_.mutex_);
    while (!buffer.empty()) {
      const auto piece = buffer.first(std::min(buffer.size(), wire::max_read));
      const wire::Message& answer = ask(offset, piece.size());
      if (answer.type == wire::Type::failure)
        throw CaptureError(printable(wire::Reader(answer.payload).string(wire::max_text)));
      std::memcpy(piece.data(), answer.payload.data(), piece.size());
      buffer = buffer.subspan(piece.size());
      offset += piece.size();
    }
  }

 private:
  /// The blocks, or a failure.
  const wire::Message& ask(std::uint64_t offset, std::size_t length) {
    reader_.check_worker();
    try {
      wire::Writer question(wire::Type::content);
      question.u64(offset);
      question.u32(static_cast<std::uint32_t>(length));
      const wire::Message& answer = reader_.worker_->ask(question);
      if (answer.type != wire::Type::failure && (answer.type != wire::Type::blocks || answer.payload.size() != length))
        reader_.worker_->refuse();
      return answer;
    } catch (const std::exception& error) {
      reader_.end_worker(error);
      throw;
    }
  }

  AskedReader& reader_;
};

AskedReader::AskedReader(BlockReader& any) : FileSystemReader(any), content_(std::make_unique<Content>(*this)) {}

AskedReader::~AskedReader() = default;

BlockReader& AskedReader::content() {
  return *content_;
}

std::vector<FileSystem> AskedReader::start(WorkerProgram program, std::vector<DiskPart> parts, wire::Writer& question) {
  try {
    std::size_t steps = parts.size();
    worker_ = std::make_unique<Worker>(std::move(program), std::move(parts));
    const wire::Message* answer = &worker_->ask(question);
    // Each has the time of an answer to itself.
    for (;; answer = &worker_->receive())
      if (answer->type == wire::Type::warning)
        take_warning(*answer);
      else if (answer->type != wire::Type::next || steps-- == 0)
        break;
    wire::Reader reader(answer->payload);
    if (answer->type == wire::Type::failure) throw CaptureError(printable(reader.string(wire::max_text)));
    if (answer->type != wire::Type::file_systems) worker_->refuse();
    const std::uint32_t found_count = reader.u32();
    if (found_count > wire::max_file_systems)
      throw CaptureError(fmt::format("{} sent too many file systems", worker_->words));
    std::vector<FileSystem> list;
    for (std::uint32_t i = 0; i < found_count; ++i) {
      FileSystem& found = list.emplace_back();
      found.number = i;
      found.in_appliance = true;
      found.volume = printable(reader.string(wire::max_text));
      found.length = reader.u64();
      found.type = printable(reader.string(32));
      found.uuid = printable(reader.string(64));
      found.label = printable(reader.string(64));
      found.obstacle = printable(reader.string(wire::max_text));
    }
    return list;
  } catch (...) {
    worker_.reset();
    throw;
  }
}

void AskedReader::walk(const FileSystem& file_system, std::string_view path, bool recursive, TreeSink& sink) {
  const std::string start = clean_path(path);
  std::string failure;
  try {
    wire::Writer question(wire::Type::walk);
    question.u32(file_system.number);
    question.string(start);
    question.u8(recursive ? 1 : 0);
    WalkReceiver receiver(start, content_->size(), sink);
    wire::Message message = ask(question);
    while (message.type != wire::Type::failure && receiver.take(message)) {
      wire::Writer next(wire::Type::next);
      message = ask(next);
    }
    if (message.type != wire::Type::failure) return;
    failure = printable(wire::Reader(message.payload).string(wire::max_text));
  } catch (const NotFound&) {
    throw;  // the worker has said all
  } catch (const std::exception& error) {
    // It may be in the middle of something, and takes long to start: there is no second one.
    const std::lock_guard lock(mutex_);
    end_worker(error);
    throw;
  }
  // What it says itself ends what it was asked, and it is ready for the next.
  throw CaptureError(failure);
}

bool AskedReader::has_ended() {
  const std::lock_guard lock(mutex_);
  return !worker_;
}

void AskedReader::check_worker() const {
  if (!worker_)
    throw CaptureError(why_ended_.empty() ? "the worker that files are read by has ended"
                                          : fmt::format("the worker that files are read by has ended: {}", why_ended_));
}

void AskedReader::end_worker(const std::exception& why) {
  if (!worker_) return;
  why_ended_ = why.what();
  worker_.reset();
}

/// Each gives the worker time anew: it has so many and no more.
void AskedReader::take_warning(const wire::Message& message) {
  constexpr unsigned most_warnings = 10000;
  if (++warnings_ > most_warnings) worker_->refuse();
  warn(wire::Reader(message.payload).string(wire::max_text));
}

/// A copy: while its entries are taken, contents are asked for, by other threads too.
wire::Message AskedReader::ask(wire::Writer& question) {
  const std::lock_guard lock(mutex_);
  check_worker();
  wire::Message message = worker_->ask(question);
  while (message.type == wire::Type::warning) {
    take_warning(message);
    message = worker_->receive();
  }
  return message;
}

}  // namespace stillpoint
