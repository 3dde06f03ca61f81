// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/capture/assembled-disk.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-worker.hh"

#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Reads file systems through a worker that lets a kernel mount them: an appliance's, or this machine's. As with the
/// other worker, this process only receives validated entries. Files' contents are asked for file by file: content() is
/// no disk, but has them one after the other.
class AskedReader : public FileSystemReader {
 public:
  ~AskedReader() override;

  void walk(const FileSystem& file_system, std::string_view path, bool recursive, TreeSink& sink) override;
  [[nodiscard]] BlockReader& content() override;
  /// Whether there is no worker any more to ask: it died, or was given up in the middle of a walk.
  [[nodiscard]] bool has_ended();

 protected:
  /// `any`: one of the disks that are read, which outlive the reader and are used by one thread at a time.
  explicit AskedReader(BlockReader& any);

  /// Starts a worker, which reads blocks of these parts, and asks it for its file systems. Throws CaptureError,
  /// Interrupted.
  [[nodiscard]] std::vector<FileSystem> start(WorkerProgram program, std::vector<DiskPart> parts,
                                              wire::Writer& question);

 private:
  class Worker;
  class Content;

  [[nodiscard]] wire::Message ask(wire::Writer& question);
  void take_warning(const wire::Message& message);
  // With the mutex held.
  void check_worker() const;
  void end_worker(const std::exception& why);

  std::mutex mutex_;                ///< held for a question and its answer
  std::unique_ptr<Worker> worker_;  ///< none before start(), and after it was given up
  std::string why_ended_;
  unsigned warnings_ = 0;
  std::unique_ptr<Content> content_;
};

}  // namespace stillpoint
