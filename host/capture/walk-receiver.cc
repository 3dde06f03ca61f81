// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/walk-receiver.hh"

#include "common/errors.hh"
#include "common/text.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

std::string clean_path(std::string_view path) {
  std::string result;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view name = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (name.empty()) continue;
    if (!wire::is_name(name)) throw NotFound(fmt::format("\"{}\" cannot be the name of a file", printable(name)));
    if (!result.empty()) result += '/';
    result += name;
  }
  if (result.size() > wire::max_path) throw NotFound("the path is longer than any can be");
  return result;
}

bool WalkReceiver::take(const wire::Message& message) {
  wire::Reader reader(message.payload);
  switch (message.type) {
    case wire::Type::entries:
      while (!reader.empty()) {
        wire::read_entry(reader, disk_size_, received_);
        place();
        sink_.entry(received_.entry);
      }
      return true;
    case wire::Type::end:
      return false;
    case wire::Type::not_found:
      throw NotFound(printable(reader.string(wire::max_text)));
    case wire::Type::failure:
      throw CaptureError(printable(reader.string(wire::max_text)));
    default:
      throw CaptureError("the file system's worker gave another answer");
  }
}

/// Turns depth and name into a path.
void WalkReceiver::place() {
  const std::uint32_t depth = received_.depth;
  if ((depth == 0) != lengths_.empty() || depth > lengths_.size())
    throw CaptureError("the file system's worker sent an entry before its directory");
  if (depth > 0) {
    lengths_.resize(depth);
    path_.resize(lengths_.back());
    if (!path_.empty()) path_ += '/';
    path_ += received_.name;
    if (path_.size() > wire::max_path) throw CaptureError("the file system has paths that are too long");
  }
  received_.entry.path = path_;
  if (received_.entry.type == EntryType::directory)
    lengths_.push_back(path_.size());
  else if (depth == 0)
    only_one_ = true;
  if (depth > 0 && only_one_) throw CaptureError("the file system's worker sent an entry below a file");
}

}  // namespace stillpoint
