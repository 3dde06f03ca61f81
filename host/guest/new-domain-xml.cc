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
    remove_children(domain_, "seclabel");
    change_disks();
    if (!wanted_.name.empty()) become_another();
    place_state();
    for (const pugi::xml_node device : devices_.children())
      pugi::xml_node(device).remove_child("alias");
  }

 private:
  void become_another() {
    child(domain_, "name").text() = wanted_.name.c_str();
    for (const char* name : {"uuid", "genid", "title"})
      remove_children(domain_, name);
    if (!wanted_.uuid.empty()) domain_.append_child("uuid").text() = wanted_.uuid.c_str();
    // A new one is made of the firmware's template.
    if (wanted_.nvram.empty()) remove_children(domain_.child("os"), "nvram");
    change_interfaces();
    // libvirt takes the UUID from there, too.
    for (pugi::xml_node system : children(domain_.child("sysinfo"), "system"))
      for (const pugi::xml_node entry : children(system, "entry"))
        if (std::string_view(entry.attribute("name").value()) == "uuid") system.remove_child(entry);
    for (const char* name : {"hostdev", "redirdev", "filesystem", "shmem", "lease", "vsock"})
      leave_out(name, [](const pugi::xml_node&) { return true; });
    const auto is_passed_through = [](const pugi::xml_node& device) {
      const std::string_view type = device.attribute("type").value();
      return type == "passthrough" || type == "evdev" ||
             device.child("backend").attribute("type").as_string() == std::string_view("passthrough");
    };
    for (const char* name : {"tpm", "input"})
      leave_out(name, is_passed_through);
    // What has a file of its own behind it would be written to by both.
    leave_out("memory", [](const pugi::xml_node& device) { return bool(device.child("source").child("path")); });
    change_character_devices();
    for (const pugi::xml_node graphics : children(devices_, "graphics"))
      change_graphics(graphics);
  }

  void place_state() {
    if (!wanted_.nvram.empty()) {
      const pugi::xml_node nvram = child(child(domain_, "os"), "nvram");
      pugi::xml_node(nvram).remove_attribute("type");
      while (pugi::xml_node(nvram).remove_child(nvram.first_child())) {
      }
      nvram.text() = wanted_.nvram.c_str();
    }
    for (const pugi::xml_node tpm : children(devices_, "tpm"))
      if (pugi::xml_node source = tpm.child("backend").child("source"); source && !wanted_.tpm.empty()) {
        set(source, "type", "dir");
        set(source, "path", wanted_.tpm.native());
      } else if (source && !wanted_.name.empty()) {
        // Where libvirt would put it: the first one's is its own.
        tpm.child("backend").remove_child(source);
      }
  }

  /// A console's password is no part of what libvirt tells: without one it is for this machine alone.
  static void change_graphics(pugi::xml_node graphics) {
    for (const char* name : {"port", "tlsPort", "websocket", "socket"})
      graphics.remove_attribute(name);
    remove_children(graphics, "listen");
    if (std::string_view(graphics.attribute("type").value()) == "egl-headless") return;
    set(graphics, "autoport", "yes");
    set(graphics, "listen", "127.0.0.1");
  }

  template <typename Chosen>
  void leave_out(const char* name, const Chosen& chosen) {
    for (const pugi::xml_node device : children(devices_, name)) {
      if (!chosen(device)) continue;
      left_out_.push_back(fmt::format("a device of the host ({})", name));
      devices_.remove_child(device);
    }
  }

  void change_disks() {
    for (pugi::xml_node disk : children(devices_, "disk")) {
      const std::string target = disk.child("target").attribute("dev").value();
      const std::string_view device = disk.attribute("device").as_string("disk");
      if (device == "cdrom" || device == "floppy") {
        if (!wanted_.name.empty()) remove_children(disk, "source");
        remove_children(disk, "backingStore");
        continue;
      }
      const auto wanted = std::ranges::find(wanted_.disks, target, &NewDisk::target);
      // The first one keeps what the still point does not have.
      if (wanted == wanted_.disks.end() && wanted_.name.empty()) continue;
      if (wanted == wanted_.disks.end()) {
        left_out_.push_back(fmt::format("disk {}, which the still point does not have", target));
        devices_.remove_child(disk);
        continue;
      }
      const pugi::xml_document before = copy_of(disk);
      for (const char* name : {"source", "backingStore", "mirror", "encryption", "auth", "shareable", "transient"})
        remove_children(disk, name);
      set(child(disk, "driver"), "name", "qemu");
      set(disk.child("driver"), "type", wanted->format);
      if (wanted->rbd) {
        place_on_rbd(disk, *wanted->rbd, before.child("disk"));
        continue;
      }
      const bool block = wanted->is_device || std::filesystem::is_block_file(std::filesystem::status(wanted->path));
      set(disk, "type", block ? "block" : "file");
      const pugi::xml_node source = disk.append_child("source");
      set(source, block ? "dev" : "file", wanted->path.native());
      if (const pugi::xml_node key = key_of_content(before.child("disk"))) decrypt(source, key, *wanted);
    }
  }

  /// An RBD image is captured as it lies there; what QEMU reads from others it has decrypted.
  static pugi::xml_node key_of_content(pugi::xml_node disk) {
    const pugi::xml_node source = disk.child("source");
    if (std::string_view(source.attribute("protocol").value()) != "rbd") return {};
    return source.child("encryption") ? source.child("encryption") : disk.child("encryption");
  }

  void decrypt(pugi::xml_node source, pugi::xml_node key, const NewDisk& disk) {
    if (disk.format != "raw")
      throw UsageError(
          fmt::format("disk {} is encrypted in its RBD image, and an overlay cannot be decrypted", disk.target),
          "restore the still point, or boot it from a replica: both keep the disk's key");
    if (std::string_view(key.attribute("format").value()) != "luks") {
      left_out_.push_back(fmt::format("the key of disk {}, for nothing but librbd decrypts {}", disk.target,
                                      key.attribute("format").value()));
      return;
    }
    pugi::xml_node ours = source.append_copy(key);
    ours.remove_attribute("engine");
  }

  static pugi::xml_document copy_of(pugi::xml_node node) {
    pugi::xml_document copy;
    copy.append_copy(node);
    return copy;
  }

  /// How the cluster is reached stays as it was for that disk, but for what is said anew.
  static void place_on_rbd(pugi::xml_node disk, const NewRbdDisk& rbd, pugi::xml_node before) {
    set(disk, "type", "network");
    // "native" is a way to read files.
    disk.child("driver").remove_attribute("io");
    pugi::xml_node source = disk.append_child("source");
    set(source, "protocol", "rbd");
    set(source, "name", rbd.name);
    pugi::xml_node earlier = before.child("source");
    if (std::string_view(earlier.attribute("protocol").value()) != "rbd") earlier = {};
    if (!rbd.conf.empty()) {
      set(source.append_child("config"), "file", rbd.conf);
    } else if (earlier) {
      for (const char* name : {"host", "config"})
        for (const pugi::xml_node kept : earlier.children(name))
          source.append_copy(kept);
    }
    if (const pugi::xml_node key = key_of_content(before)) source.append_copy(key);
    pugi::xml_node auth = earlier.child("auth") ? earlier.child("auth") : before.child("auth");
    if (!rbd.secret.empty()) {
      pugi::xml_node ours = source.append_child("auth");
      set(ours, "username", rbd.user.empty() ? "admin" : rbd.user);
      pugi::xml_node secret = ours.append_child("secret");
      set(secret, "type", "ceph");
      set(secret, "uuid", rbd.secret);
    } else if (earlier && auth && (rbd.user.empty() || rbd.user == auth.attribute("username").value())) {
      source.append_copy(auth);
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
      if (wanted_.network) continue;
      set(child(interface, "link"), "state", "down");
      // A switch must not take it for the first one's port.
      remove_children(interface, "virtualport");
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
