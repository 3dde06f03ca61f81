// SPDX-License-Identifier: LGPL-2.1-or-later
// A manifest: as the document that it is stored as, and its content alone.
#include "host/repository/manifest.hh"

#include "common/errors.hh"
#include "host/repository/document.hh"

#include <cstdint>
#include <cstdlib>
#include <string_view>

using namespace stillpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    static_cast<void>(open_document("manifest", text, "fuzz"));
  } catch (const Corruption&) {
  }
  try {
    const Json json = parse_json(text, "fuzz");
    const Manifest manifest = parse_manifest(json);
    // What was understood is written in a way that is understood.
    static_cast<void>(parse_manifest(open_document("manifest", seal_document("manifest", to_json(manifest)), "again")));
  } catch (const ProtocolError&) {
  } catch (const Corruption&) {
  } catch (const ConfigError&) {
  } catch (const UsageError&) {
  }
  return 0;
}
