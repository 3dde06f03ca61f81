// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance-reader.hh"

#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-worker.hh"
#include "host/capture/walk-receiver.hh"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::string_view program_name = "stillpoint-appliance-worker";
/// Starting takes half a minute where there is no KVM, and three where an appliance must be built first.
constexpr std::chrono::minutes appliance_limit{10};

/// What libguestfs and supermin let an operator choose, and nothing else of ours.
std::vector<std::string> appliance_environment() {
  std::vector<std::string> environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                          "LANG=C"};
  static constexpr std::array<std::string_view, 9> passed_on = {
      "SUPERMIN_KERNEL=",    "SUPERMIN_KERNEL_VERSION=", "SUPERMIN_MODULES=", "LIBGUESTFS_PATH=", "LIBGUESTFS_HV=",
      "LIBGUESTFS_MEMSIZE=", "LIBGUESTFS_CACHEDIR=",     "LIBGUESTFS_DEBUG=", "LIBGUESTFS_TRACE="};
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (std::any_of(passed_on.begin(), passed_on.end(),
                    [variable](std::string_view name) { return std::string_view(*variable).starts_with(name); }))
      environment.emplace_back(*variable);
  return environment;
}

std::vector<DiskPart> whole_disks(const std::vector<NamedDisk>& disks) {
  std::vector<DiskPart> parts;
  for (const NamedDisk& disk : disks)
    if (disk.disk->size() > 0) parts.push_back({disk.disk, 0, disk.disk->size()});
  return parts;
}

}  // namespace

/// The appliance's worker with the disks that it reads.
class ApplianceReader::Worker {
 public:
  Worker(const std::vector<NamedDisk>& disks, const std::stop_token& stop)
      : disks_(whole_disks(disks)),
        worker_({.name = program_name,
                 .words = "the appliance's worker",
                 .environment = appliance_environment(),
                 .answer_limit = appliance_limit,
                 .asks_for_blocks_apart = true,
                 .has_errors = std::getenv("LIBGUESTFS_DEBUG") != nullptr,
                 .stop = stop}) {}

  /// The answer is valid until the next question.
  const wire::Message& ask(wire::Writer& question) {
    worker_.send(question.finish());
    return receive();
  }
  const wire::Message& receive() { return worker_.receive(disks_); }

 private:
  AssembledDisk disks_;
  TreeWorker worker_;
};

/// Contents of files, one after the other.
class ApplianceReader::Content : public BlockReader {
 public:
  explicit Content(ApplianceReader& reader) : reader_(reader) {}

  [[nodiscard]] std::uint64_t size() const override { return INT64_MAX; }

  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    const std::lock_guard lock(reader_.mutex_);
    if (!reader_.appliance_) throw CaptureError("the appliance has ended");
    while (!buffer.empty()) {
      const auto piece = buffer.first(std::min(buffer.size(), wire::max_read));
      wire::Writer question(wire::Type::content);
      question.u64(offset);
      question.u32(static_cast<std::uint32_t>(piece.size()));
      const wire::Message& answer = reader_.appliance_->ask(question);
      if (answer.type == wire::Type::failure)
        throw CaptureError(printable(wire::Reader(answer.payload).string(wire::max_text)));
      if (answer.type != wire::Type::blocks || answer.payload.size() != piece.size())
        throw CaptureError("the appliance's worker gave another answer");
      std::memcpy(piece.data(), answer.payload.data(), piece.size());
      buffer = buffer.subspan(piece.size());
      offset += piece.size();
    }
  }

 private:
  ApplianceReader& reader_;
};

ApplianceReader::ApplianceReader(std::vector<NamedDisk> disks, ApplianceOptions options)
    : FileSystemReader(*disks.front().disk),
      disks_(std::move(disks)),
      options_(std::move(options)),
      content_(std::make_unique<Content>(*this)) {}

ApplianceReader::~ApplianceReader() = default;

BlockReader& ApplianceReader::content() {
  return *content_;
}

std::vector<FileSystem> ApplianceReader::file_systems() {
  try {
    wire::Writer question(wire::Type::list);
    const auto count =
        std::count_if(disks_.begin(), disks_.end(), [](const NamedDisk& d) { return d.disk->size() > 0; });
    if (static_cast<std::size_t>(count) > wire::max_disks) throw CaptureError("more disks than an appliance can have");
    question.u32(static_cast<std::uint32_t>(count));
    for (const NamedDisk& disk : disks_) {
      if (disk.disk->size() == 0) continue;
      question.string(disk.name);
      question.u64(disk.disk->size());
    }
    question.u32(static_cast<std::uint32_t>(options_.keys.size()));
    for (const std::string& key : options_.keys)
      question.string(key);
    appliance_ = std::make_unique<Worker>(disks_, options_.stop);
    const wire::Message* answer = &appliance_->ask(question);
    for (; answer->type == wire::Type::warning; answer = &appliance_->receive())
      warn(wire::Reader(answer->payload).string(wire::max_text));
    wire::Reader reader(answer->payload);
    if (answer->type == wire::Type::failure) throw CaptureError(printable(reader.string(wire::max_text)));
    if (answer->type != wire::Type::file_systems) throw CaptureError("the appliance's worker gave another answer");
    const std::uint32_t found_count = reader.u32();
    if (found_count > wire::max_file_systems) throw CaptureError("the appliance's worker sent too many file systems");
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
    appliance_.reset();
    throw;
  }
}

void ApplianceReader::walk(const FileSystem& file_system, std::string_view path, bool recursive, TreeSink& sink) {
  const std::string start = clean_path(path);
  try {
    wire::Writer question(wire::Type::walk);
    question.u32(file_system.number);
    question.string(start);
    question.u8(recursive ? 1 : 0);
    WalkReceiver receiver(start, content_->size(), sink);
    wire::Message message = ask(question);
    while (receiver.take(message)) {
      wire::Writer next(wire::Type::next);
      message = ask(next);
    }
  } catch (const NotFound&) {
    throw;  // the worker has said all
  } catch (...) {
    // It may be in the middle of something, and takes long to start: there is no second one.
    const std::lock_guard lock(mutex_);
    appliance_.reset();
    throw;
  }
}

/// A copy: while its entries are taken, contents are asked for, by other threads too.
wire::Message ApplianceReader::ask(wire::Writer& question) {
  const std::lock_guard lock(mutex_);
  if (!appliance_) throw CaptureError("the appliance has ended");
  wire::Message message = appliance_->ask(question);
  while (message.type == wire::Type::warning) {
    warn(wire::Reader(message.payload).string(wire::max_text));
    message = appliance_->receive();
  }
  return message;
}

}  // namespace stillpoint
