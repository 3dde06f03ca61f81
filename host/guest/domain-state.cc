// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/domain-state.hh"

#include "common/errors.hh"
#include "common/glib.hh"
#include "host/guest/domain-xml.hh"

#include <fmt/format.h>
#include <glib.h>
#include <pugixml.hpp>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

pugi::xml_document parse(std::string_view xml) {
  if (xml.size() > max_xml_bytes) throw Error("libvirt's XML of a domain is too long");
  pugi::xml_document document;
  const pugi::xml_parse_result result = document.load_buffer(xml.data(), xml.size());
  if (!result || !document.child("domain"))
    throw Error(fmt::format("libvirt's XML of a domain cannot be read: {}", result.description()));
  return document;
}

void find_nvram(const pugi::xml_node& nvram, bool running, StatePlaces& places) {
  if (!nvram) return;
  const std::string_view type = nvram.attribute("type").as_string("file");
  if (type != "file") {
    places.left_out.push_back(fmt::format("the firmware's variables, which are of type {}", type));
    return;
  }
  const pugi::xml_node source = nvram.child("source");
  const fs::path path = source ? source.attribute("file").value() : nvram.text().get();
  if (!path.is_absolute()) return;
  // QEMU writes such an image's tables when it likes.
  if (running && std::string_view(nvram.attribute("format").as_string("raw")) != "raw")
    places.left_out.emplace_back("the firmware's variables, which are no raw file and are in use");
  else
    places.nvram = path;
}

pugi::xml_node emulated_tpm(const pugi::xml_node& domain) {
  for (const pugi::xml_node& tpm : domain.child("devices").children("tpm"))
    if (std::string_view(tpm.child("backend").attribute("type").value()) == "emulator") return tpm;
  return {};
}

/// libvirt has a directory for each domain, and in it one for each version of TPM.
fs::path directory_of(const pugi::xml_node& tpm, const fs::path& root, const std::string& uuid) {
  if (!is_uuid(uuid)) throw Error("libvirt's XML of a domain has no proper UUID");
  const std::string_view version = tpm.child("backend").attribute("version").as_string("2.0");
  return root / uuid / (version == "1.2" ? "tpm1.2" : "tpm2");
}

void find_tpm(const pugi::xml_node& domain, const fs::path& root, StatePlaces& places) {
  for (const pugi::xml_node& tpm : domain.child("devices").children("tpm")) {
    const std::string_view type = tpm.child("backend").attribute("type").value();
    if (type != "emulator") places.left_out.push_back(fmt::format("the state of its TPM, which is of type {}", type));
  }
  const pugi::xml_node tpm = emulated_tpm(domain);
  if (!tpm) return;
  const pugi::xml_node source = tpm.child("backend").child("source");
  if (!source) {
    places.tpm = directory_of(tpm, root, domain.child("uuid").text().get());
    return;
  }
  const fs::path path = source.attribute("path").value();
  if (std::string_view(source.attribute("type").value()) == "dir" && path.is_absolute())
    places.tpm = path;
  else
    places.left_out.emplace_back("the state of its TPM, which is not in a directory");
}

}  // namespace

StatePlaces state_places(std::string_view xml, const fs::path& tpm_root, bool running) {
  const pugi::xml_document document = parse(xml);
  const pugi::xml_node domain = document.child("domain");
  StatePlaces places;
  find_nvram(domain.child("os").child("nvram"), running, places);
  find_tpm(domain, tpm_root, places);
  return places;
}

fs::path tpm_directory(std::string_view xml, const fs::path& tpm_root, const std::string& uuid) {
  const pugi::xml_document document = parse(xml);
  const pugi::xml_node tpm = emulated_tpm(document.child("domain"));
  return tpm && !tpm.child("backend").child("source") ? directory_of(tpm, tpm_root, uuid) : fs::path();
}

std::string new_uuid() {
  const GCharPtr text(g_uuid_string_random());
  return text.get();
}

bool is_uuid(std::string_view text) noexcept {
  return text.size() == 36 && g_uuid_string_is_valid(std::string(text).c_str()) == TRUE;
}

}  // namespace stillpoint
