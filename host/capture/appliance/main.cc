// SPDX-License-Identifier: LGPL-2.1-or-later
// stillpoint-appliance-worker: reads file systems for the companion in libguestfs' appliance. It is started with a
// socket for questions as descriptor 3, and one for blocks as descriptor 4.
#include "common/errors.hh"
#include "host/capture/appliance/appliance-walk.hh"
#include "host/capture/appliance/appliance.hh"
#include "host/capture/appliance/asked-service.hh"
#include "host/capture/appliance/confinement.hh"

#include <optional>
#include <string_view>
#include <vector>

namespace stillpoint {
namespace {

class ApplianceService : public AskedService {
 public:
  ApplianceService(Parent& parent, const WritablePlaces& places) : AskedService(parent), places_(places) {}

 private:
  void list(wire::Reader& request) override {
    std::vector<ApplianceDisk> disks(request.u32());
    for (ApplianceDisk& disk : disks) {
      disk.name = request.string(wire::max_name);
      disk.size = request.u64();
    }
    std::vector<std::string> keys(request.u32());
    for (std::string& key : keys)
      key = request.string(wire::max_key);
    appliance_.emplace(places_, disks, blocks_socket,
                       [this](std::string_view text) { say(wire::Type::warning, text); });
    contents_.emplace(*appliance_);
    limit_memory();
    found_ = appliance_->find(keys);
    wire::Writer answer(wire::Type::file_systems);
    answer.u32(static_cast<std::uint32_t>(found_.size()));
    for (const ApplianceFileSystem& each : found_) {
      answer.string(each.name);
      answer.u64(each.length);
      answer.string(std::string_view(each.type).substr(0, 32));
      answer.string(std::string_view(each.uuid).substr(0, 64));
      answer.string(std::string_view(each.label).substr(0, 64));
      answer.string(std::string_view(each.obstacle).substr(0, wire::max_text));
    }
    parent().send(answer.finish());
  }

  void walk(std::uint32_t number, std::string_view path, bool recursive) override {
    if (!appliance_ || number >= found_.size()) throw CaptureError("there is no such file system");
    const ApplianceFileSystem& walked = found_[number];
    walk_in_appliance(*appliance_, *contents_, parent(), walked, path, recursive, [this, &walked] {
      await_next();
      appliance_->mount(walked);
    });
  }

  void read(std::span<char> buffer, std::uint64_t offset) override {
    if (!contents_) throw CaptureError("there is no such content");
    contents_->read(buffer, offset);
  }

  WritablePlaces places_;
  std::optional<Appliance> appliance_;
  std::optional<ApplianceContents> contents_;
  std::vector<ApplianceFileSystem> found_;
};

}  // namespace
}  // namespace stillpoint

int main() {
  using namespace stillpoint;
  return run_asked_worker("stillpoint-appliance-worker", [](Parent& parent) {
    const WritablePlaces places = confine();
    ApplianceService(parent, places).serve();
  });
}
