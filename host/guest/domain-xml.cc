// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/domain-xml.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <pugixml.hpp>

#include <algorithm>
#include <charconv>

namespace stillpoint {

namespace {

constexpr std::size_t max_disks = 1024;
constexpr std::size_t max_channels = 1024;

pugi::xml_document parse(std::string_view xml, const char* root) {
  if (xml.size() > max_xml_bytes) throw Error(fmt::format("libvirt's XML of a {} is too long", root));
  pugi::xml_document document;
  const pugi::xml_parse_result result = document.load_buffer(xml.data(), xml.size());
  if (!result || !document.child(root))
    throw Error(fmt::format("libvirt's XML of a {} cannot be read: {}", root, result.description()));
  return document;
}

/// Targets become file names and attributes: what is not plain is not taken.
bool is_plain(std::string_view text, std::size_t longest) {
  return !text.empty() && text.size() <= longest &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

std::string network_source(const pugi::xml_node& source) {
  return fmt::format("{}:{}", source.attribute("protocol").value(), source.attribute("name").value());
}

/// The source in words, by the type of the disk; empty when there is none.
std::string source_of(const pugi::xml_node& disk, std::string_view type) {
  const pugi::xml_node source = disk.child("source");
  if (type == "file") return source.attribute("file").value();
  if (type == "block") return source.attribute("dev").value();
  if (type == "network") return source ? network_source(source) : std::string();
  if (type == "volume" && source)
    return fmt::format("{}/{}", source.attribute("pool").value(), source.attribute("volume").value());
  return {};
}

bool is_rbd(const pugi::xml_node& disk) {
  return std::string_view(disk.attribute("type").value()) == "network" &&
         std::string_view(disk.child("source").attribute("protocol").value()) == "rbd";
}

/// "10.0.0.1:6789,[fd00::1]:6789"; hosts without a port are left for Ceph to complete.
std::string monitors_of(const pugi::xml_node& source) {
  std::string monitors;
  for (const pugi::xml_node& host : source.children("host")) {
    const std::string name = host.attribute("name").value();
    const std::string port = host.attribute("port").value();
    if (name.empty()) continue;
    if (!monitors.empty()) monitors += ',';
    const bool is_v6 = name.find(':') != std::string::npos && !name.starts_with('[');
    monitors += is_v6 ? fmt::format("[{}]", name) : name;
    if (!port.empty()) monitors += ':' + port;
  }
  return monitors;
}

/// The image's own bytes are wanted: another format than raw on it is QEMU's to read.
std::optional<DomainRbd> rbd_of(const pugi::xml_node& disk, const std::string& format) {
  if (!is_rbd(disk) || format != "raw") return std::nullopt;
  const pugi::xml_node source = disk.child("source");
  const std::string name = source.attribute("name").value();
  const std::size_t first = name.find('/');
  const std::size_t last = name.rfind('/');
  if (first == std::string::npos || first == 0 || last + 1 == name.size()) return std::nullopt;
  DomainRbd rbd;
  rbd.pool = name.substr(0, first);
  if (last != first) rbd.name_space = name.substr(first + 1, last - first - 1);
  rbd.image = name.substr(last + 1);
  rbd.conf = source.child("config").attribute("file").value();
  rbd.monitors = monitors_of(source);
  // Below the disk in definitions of old, below the source in all that libvirt writes now.
  const pugi::xml_node auth = source.child("auth") ? source.child("auth") : disk.child("auth");
  rbd.user = auth.attribute("username").value();
  const pugi::xml_node secret = auth.child("secret");
  rbd.secret = secret.attribute("uuid") ? secret.attribute("uuid").value() : secret.attribute("usage").value();
  rbd.encrypted = source.child("encryption") || disk.child("encryption");
  return rbd;
}

/// Why a still point leaves this disk out; empty when it does not.
std::string reason_to_skip(const pugi::xml_node& disk, const std::string& source, const std::string& format,
                           bool running) {
  const std::string_view device = disk.attribute("device").as_string("disk");
  const std::string_view type = disk.attribute("type").as_string("file");
  if (device == "cdrom") return "a CD-ROM";
  if (device == "floppy") return "a floppy";
  if (device == "lun") return "a SCSI device passed through: QEMU cannot back it up";
  if (device != "disk") return fmt::format("a device of type {}", device);
  if (disk.child("readonly")) return "read-only";
  if (disk.child("transient")) return "transient: its changes are thrown away when the domain stops";
  if (disk.child("shareable")) return "shared with other domains, whose writes cannot be tracked";
  if (is_rbd(disk) && disk.child("source").child("snapshot"))
    return "a snapshot of a Ceph RBD image, which never changes";
  if (type != "file" && type != "block" && type != "network" && type != "volume")
    return fmt::format("its source is of type {}, which QEMU cannot back up", type);
  if (source.empty()) return "it has no source";
  if (!is_plain(format, 16)) return "its format has an unusual name";
  if (!running && type != "file" && type != "block" && !rbd_of(disk, format))
    return "its source can be read only while the domain runs";
  return {};
}

void add_disk(DomainDefinition& definition, const pugi::xml_node& node, bool running) {
  DomainDisk disk;
  disk.target = node.child("target").attribute("dev").value();
  if (!is_plain(disk.target, 32)) throw Error("libvirt's XML of a domain has a disk without a proper target");
  disk.source = source_of(node, node.attribute("type").as_string("file"));
  disk.format = node.child("driver").attribute("type").as_string("raw");
  disk.serial = node.child("serial").text().as_string();
  disk.dirty_bitmap = disk.format == "qcow2";
  disk.rbd = rbd_of(node, disk.format);
  std::string reason = reason_to_skip(node, disk.source, disk.format, running);
  if (reason.empty())
    definition.disks.push_back(std::move(disk));
  else
    definition.skipped.push_back({disk.target, std::move(reason)});
}

/// "+64055:+108", as libvirt writes it for a running domain.
std::optional<UserAndGroup> parse_dac_label(std::string_view label) {
  const std::size_t colon = label.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto number = [](std::string_view text) -> std::optional<std::uint32_t> {
    if (text.starts_with('+')) text.remove_prefix(1);
    std::uint32_t value = 0;
    const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (fault != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
  };
  const auto user = number(label.substr(0, colon));
  const auto group = number(label.substr(colon + 1));
  if (!user || !group) return std::nullopt;
  return UserAndGroup{*user, *group};
}

}  // namespace

DomainDefinition parse_domain_xml(std::string_view xml, bool running) {
  const pugi::xml_document document = parse(xml, "domain");
  const pugi::xml_node domain = document.child("domain");
  DomainDefinition definition;
  const pugi::xml_node devices = domain.child("devices");
  for (const pugi::xml_node& node : devices.children("disk")) {
    if (definition.disks.size() + definition.skipped.size() >= max_disks)
      throw Error("libvirt's XML of a domain has too many disks");
    add_disk(definition, node, running);
  }
  for (const pugi::xml_node& node : devices.children("channel")) {
    const pugi::xml_node target = node.child("target");
    if (std::string_view(target.attribute("type").value()) != "virtio") continue;
    if (definition.channels.size() >= max_channels) throw Error("libvirt's XML of a domain has too many channels");
    definition.channels.push_back({target.attribute("name").value(), node.attribute("type").value(),
                                   node.child("alias").attribute("name").value()});
  }
  for (const pugi::xml_node& node : domain.children("seclabel"))
    if (std::string_view(node.attribute("model").value()) == "dac")
      definition.owner = parse_dac_label(node.child("label").text().as_string());
  return definition;
}

std::vector<std::string> disk_paths(std::string_view xml) {
  const pugi::xml_document document = parse(xml, "domain");
  std::vector<std::string> paths;
  for (const pugi::xpath_node& found : document.select_nodes("/domain/devices/disk//source/@*")) {
    const std::string_view name = found.attribute().name();
    if ((name == "file" || name == "dev") && *found.attribute().value() != '\0')
      paths.emplace_back(found.attribute().value());
    // Its snapshot is written by nobody.
    const pugi::xml_node source = found.parent();
    if (name == "name" && std::string_view(source.attribute("protocol").value()) == "rbd" && !source.child("snapshot"))
      paths.push_back(network_source(source));
  }
  return paths;
}

std::vector<DiskCopy> disk_copies(std::string_view xml) {
  const pugi::xml_document document = parse(xml, "domain");
  std::vector<DiskCopy> copies;
  for (const pugi::xpath_node& found : document.select_nodes("/domain/devices/disk[mirror/@job='copy']")) {
    const pugi::xml_node disk = found.node();
    const std::string image = disk.child("mirror").child("source").attribute("file").value();
    if (!image.empty())
      copies.push_back(
          {disk.child("target").attribute("dev").value(), disk.child("source").attribute("file").value(), image});
  }
  return copies;
}

std::optional<UserAndGroup> parse_qemu_user(std::string_view xml) {
  const pugi::xml_document document = parse(xml, "capabilities");
  for (const pugi::xml_node& model : document.child("capabilities").child("host").children("secmodel")) {
    if (std::string_view(model.child("model").text().as_string()) != "dac") continue;
    for (const pugi::xml_node& label : model.children("baselabel"))
      if (const auto owner = parse_dac_label(label.text().as_string())) return owner;
  }
  return std::nullopt;
}

std::vector<CheckpointDisk> parse_checkpoint_xml(std::string_view xml, bool with_sizes) {
  const pugi::xml_document document = parse(xml, "domaincheckpoint");
  std::vector<CheckpointDisk> disks;
  for (const pugi::xml_node& node : document.child("domaincheckpoint").child("disks").children("disk")) {
    if (disks.size() >= max_disks) throw Error("libvirt's XML of a checkpoint has too many disks");
    if (std::string_view(node.attribute("checkpoint").as_string("bitmap")) != "bitmap") continue;
    disks.push_back({node.attribute("name").value(), !with_sizes || node.attribute("size")});
  }
  return disks;
}

std::string parse_backup_socket(std::string_view xml) {
  const pugi::xml_document document = parse(xml, "domainbackup");
  const pugi::xml_node server = document.child("domainbackup").child("server");
  return server.attribute("socket").value();
}

}  // namespace stillpoint
