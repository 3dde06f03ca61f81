// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/new-domain-xml.hh"

#include "common/errors.hh"
#include "host/guest/domain-xml.hh"

#include <fmt/format.h>
#include <pugixml.hpp>

#include <algorithm>
#include <sstream>

namespace stillpoint {

namespace {

void set(pugi::xml_node node, const char* attribute, const std::string& value) {
  if (!node.attribute(attribute)) node.append_attribute(attribute);
  node.attribute(attribute) = value.c_str();
}

pugi::xml_node child(pugi::xml_node node, const char* name) {
  const pugi::xml_node found = node.child(name);
  return found ? found : node.append_child(name);
}

void remove_children(pugi::xml_node node, const char* name) {
  while (node.remove_child(name)) {
  }
}

std::vector<pugi::xml_node> children(pugi::xml_node node, const char* name) {
  const auto range = node.children(name);
  return {range.begin(), range.end()};
}

class Definition {
 public:
  Definition(pugi::xml_node domain, const NewDomain& wanted, std::vector<std::string>& left_out)
      : domain_(domain), devices_(domain.child("devices")), wanted_(wanted), left_out_(left_out) {}

  void change() {
    domain_.remove_attribute("id");
    child(domain_, "name").text() = wanted_.name.c_str();
    for (const char* name : {"uuid", "genid", "seclabel", "title"})
      remove_children(domain_, name);
    // A new one is made of the firmware's template.
    remove_children(domain_.child("os"), "nvram");
    change_disks();
    change_interfaces();
    for (const char* name : {"hostdev", "redirdev", "filesystem", "shmem", "lease"})
      leave_out(name);
    change_character_devices();
    for (const pugi::xml_node graphics : children(devices_, "graphics")) {
      for (const char* name : {"port", "tlsPort", "websocket", "socket"})
        pugi::xml_node(graphics).remove_attribute(name);
      if (std::string_view(graphics.attribute("type").value()) != "egl-headless") set(graphics, "autoport", "yes");
    }
    for (const pugi::xml_node device : devices_.children())
      pugi::xml_node(device).remove_child("alias");
  }

 private:
  void leave_out(const char* name) {
    for (const pugi::xml_node device : children(devices_, name)) {
      left_out_.push_back(fmt::format("a device of the host ({})", name));
      devices_.remove_child(device);
    }
  }

  void change_disks() {
    for (pugi::xml_node disk : children(devices_, "disk")) {
      const std::string target = disk.child("target").attribute("dev").value();
      const std::string_view device = disk.attribute("device").as_string("disk");
      if (device == "cdrom" || device == "floppy") {
        remove_children(disk, "source");
        remove_children(disk, "backingStore");
        continue;
      }
      const auto wanted = std::ranges::find(wanted_.disks, target, &NewDisk::target);
      if (wanted == wanted_.disks.end()) {
        left_out_.push_back(fmt::format("disk {}, which the still point does not have", target));
        devices_.remove_child(disk);
        continue;
      }
      for (const char* name : {"source", "backingStore", "mirror", "encryption", "auth", "shareable", "transient"})
        remove_children(disk, name);
      const bool block = std::filesystem::is_block_file(std::filesystem::status(wanted->path));
      set(disk, "type", block ? "block" : "file");
      const pugi::xml_node source = disk.append_child("source");
      set(source, block ? "dev" : "file", wanted->path.native());
      set(child(disk, "driver"), "name", "qemu");
      set(disk.child("driver"), "type", wanted->format);
    }
  }

  void change_interfaces() {
    for (pugi::xml_node interface : children(devices_, "interface")) {
      if (std::string_view(interface.attribute("type").value()) == "hostdev") {
        left_out_.push_back("a device of the host (interface)");
        devices_.remove_child(interface);
        continue;
      }
      remove_children(interface, "mac");
      // Made by libvirt when the first one started.
      remove_children(interface, "target");
      if (!wanted_.network) set(child(interface, "link"), "state", "down");
    }
  }

  /// Files and sockets are the first domain's; the guest agent's sockets libvirt makes anew.
  void change_character_devices() {
    for (pugi::xml_node channel : children(devices_, "channel")) {
      remove_children(channel, "source");
      pugi::xml_node(channel.child("target")).remove_attribute("state");
    }
    for (const char* name : {"serial", "console", "parallel"})
      for (pugi::xml_node device : children(devices_, name)) {
        remove_children(device, "source");
        remove_children(device, "log");
        set(device, "type", "pty");
        device.remove_attribute("tty");
      }
  }

  pugi::xml_node domain_;
  pugi::xml_node devices_;
  const NewDomain& wanted_;
  std::vector<std::string>& left_out_;
};

}  // namespace

NewDefinition new_domain_xml(std::string_view xml, const NewDomain& domain) {
  if (xml.size() > max_xml_bytes) throw Error("libvirt's XML of a domain is too long");
  pugi::xml_document document;
  const pugi::xml_parse_result result = document.load_buffer(xml.data(), xml.size());
  if (!result || !document.child("domain"))
    throw Error(fmt::format("libvirt's XML of a domain cannot be read: {}", result.description()));
  NewDefinition definition;
  Definition(document.child("domain"), domain, definition.left_out).change();
  std::ostringstream text;
  document.save(text, "  ");
  definition.xml = text.str();
  return definition;
}

}  // namespace stillpoint
