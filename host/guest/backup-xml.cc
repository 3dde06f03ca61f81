// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/backup-xml.hh"

#include <fmt/format.h>
#include <pugixml.hpp>

#include <algorithm>
#include <sstream>

namespace stillpoint {

namespace {

std::string text_of(const pugi::xml_document& document) {
  std::ostringstream out;
  document.save(out, "", pugi::format_raw | pugi::format_no_declaration);
  return out.str();
}

void set(pugi::xml_node& node, const char* name, const std::string& value) {
  node.append_attribute(name).set_value(value.c_str());
}

const BackupDisk* find(const BackupPlan& plan, const std::string& target) {
  const auto found =
      std::find_if(plan.disks.begin(), plan.disks.end(), [&](const BackupDisk& disk) { return disk.target == target; });
  return found == plan.disks.end() ? nullptr : &*found;
}

}  // namespace

std::string export_bitmap(std::string_view target) {
  return fmt::format("changed-{}", target);
}

std::filesystem::path scratch_file(const std::filesystem::path& directory, const std::string& target) {
  return directory / (target + ".scratch");
}

std::string backup_xml(const BackupPlan& plan, const std::filesystem::path& directory,
                       const std::vector<std::string>& all_targets) {
  pugi::xml_document document;
  pugi::xml_node backup = document.append_child("domainbackup");
  set(backup, "mode", "pull");
  pugi::xml_node server = backup.append_child("server");
  set(server, "transport", "unix");
  set(server, "socket", directory / "nbd.sock");
  pugi::xml_node disks = backup.append_child("disks");
  for (const std::string& target : all_targets) {
    pugi::xml_node node = disks.append_child("disk");
    set(node, "name", target);
    const BackupDisk* disk = find(plan, target);
    set(node, "backup", disk != nullptr ? "yes" : "no");
    if (disk == nullptr) continue;
    set(node, "type", "file");
    set(node, "backupmode", disk->base.empty() ? "full" : "incremental");
    if (!disk->base.empty()) set(node, "incremental", disk->base);
    set(node, "exportname", target);
    if (!disk->base.empty()) set(node, "exportbitmap", export_bitmap(target));
    pugi::xml_node driver = node.append_child("driver");
    set(driver, "type", "qcow2");
    pugi::xml_node scratch = node.append_child("scratch");
    set(scratch, "file", scratch_file(directory, target));
  }
  return text_of(document);
}

std::string checkpoint_xml(const BackupPlan& plan, const std::vector<std::string>& all_targets) {
  pugi::xml_document document;
  pugi::xml_node checkpoint = document.append_child("domaincheckpoint");
  checkpoint.append_child("name").text().set(plan.checkpoint.c_str());
  pugi::xml_node disks = checkpoint.append_child("disks");
  for (const std::string& target : all_targets) {
    const BackupDisk* disk = find(plan, target);
    pugi::xml_node node = disks.append_child("disk");
    set(node, "name", target);
    set(node, "checkpoint", disk != nullptr && disk->checkpoint ? "bitmap" : "no");
  }
  return text_of(document);
}

std::string blamed_disk(std::string_view message, const BackupPlan& plan) {
  for (const BackupDisk& disk : plan.disks)
    if (!disk.base.empty() && message.find(fmt::format("disk '{}'", disk.target)) != std::string_view::npos)
      return disk.target;
  return {};
}

}  // namespace stillpoint
