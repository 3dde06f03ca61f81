// SPDX-License-Identifier: LGPL-2.1-or-later
// What the sandboxed reader of a guest's file systems says, should the guest have taken it over.
#include "common/errors.hh"
#include "host/capture/tree-wire.hh"

#include <cstdint>
#include <cstdlib>

using namespace stillpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::uint64_t disk_size = std::uint64_t{1} << 30U;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    if (size >= wire::header_bytes) static_cast<void>(wire::parse_header(text.substr(0, wire::header_bytes)));
  } catch (const CaptureError&) {
  }
  try {
    wire::Reader reader(text);
    while (!reader.empty()) {
      wire::ReceivedEntry received;
      wire::read_entry(reader, disk_size, received);
      std::uint64_t end = 0;
      for (const TreeEntry::FileExtent& extent : received.entry.extents) {
        if (extent.file_offset < end) std::abort();
        end = extent.file_offset + extent.length;
      }
    }
  } catch (const CaptureError&) {
  }
  return 0;
}
