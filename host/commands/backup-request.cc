// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/backup-request.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace stillpoint {

namespace {

constexpr std::string_view format_option = ",format=";
constexpr std::size_t longest_target = 32;

bool is_target(std::string_view text) {
  return !text.empty() && text.size() <= longest_target &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

}  // namespace

DiskImage parse_disk_image(const std::string& text) {
  const auto refuse = [&](std::string_view why) {
    return UsageError(fmt::format("--disk-image {}: {}", text, why),
                      "say TARGET=PATH[,format=raw|qcow2], as in vda=/images/web1.qcow2,format=qcow2");
  };
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || !is_target(std::string_view(text).substr(0, equals)))
    throw refuse("the disk's name, as vda, is missing");
  DiskImage image{text.substr(0, equals), {}, "raw"};
  std::string rest = text.substr(equals + 1);
  // The last one: a path may hold commas of its own.
  if (const std::size_t option = rest.rfind(format_option); option != std::string::npos) {
    image.format = rest.substr(option + format_option.size());
    rest.resize(option);
  }
  if (image.format != "raw" && image.format != "qcow2") throw refuse("the format is neither raw nor qcow2");
  if (rest.empty()) throw refuse("the path is missing");
  image.path = rest;
  return image;
}

}  // namespace stillpoint
