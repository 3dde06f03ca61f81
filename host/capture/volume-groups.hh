// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/assembled-disk.hh"
#include "host/capture/file-system-reader.hh"

#include <memory>
#include <string>
#include <vector>

namespace stillpoint {

/// A logical volume of LVM on a guest's disks.
struct Volume {
  std::string name;             ///< "group/volume", as it may stand in a path
  std::string uuid;             ///< LVM's
  std::string obstacle;         ///< why it cannot be read from its parts; empty when it can
  std::vector<DiskPart> parts;  ///< none when there is an obstacle
};

/// The logical volumes on these physical ones (file systems of type "LVM2_member"), which may lie on several disks.
/// Their metadata is parsed in a sandboxed worker. Throws CaptureError.
[[nodiscard]] std::vector<Volume> find_volumes(const std::vector<DiskPart>& physical);

/// A disk and what was found on it.
struct VolumeSource {
  std::string target;
  BlockReader* disk;
  const std::vector<FileSystem>* found;
};

/// A logical volume with the file system on it, whose `volume` is the name. Where there is an obstacle, it is the file
/// system's, and there is nothing to read from.
struct OpenedVolume {
  std::string target;  ///< of the first disk that it lies on
  std::unique_ptr<BlockReader> content;
  std::unique_ptr<FileSystemReader> files;
  std::vector<FileSystem> found;
};

/// The logical volumes on all these disks, which outlive them. Throws CaptureError.
[[nodiscard]] std::vector<OpenedVolume> open_volumes(const std::vector<VolumeSource>& disks);

}  // namespace stillpoint
