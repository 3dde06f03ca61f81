// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/domain-life.hh"

#include "common/bounded-call.hh"
#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <libvirt/virterror.h>
#include <pugixml.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <sstream>
#include <system_error>
#include <thread>

namespace stillpoint {

namespace {

constexpr std::chrono::seconds call_limit{60};
constexpr std::chrono::milliseconds look_interval{200};

/// Of a block job; a call that comes too late still writes here.
struct Seen {
  virDomainBlockJobInfo info{};
  int found = 0;
};

/// Calls libvirt with the domain; what it returns below zero is an error.
void call(const Domain& domain, std::string_view what, const std::function<int(virDomainPtr)>& function) {
  const std::string doing = fmt::format("cannot {} {}", what, domain.name());
  const auto done = bounded_call(Deadline(call_limit), [domain, function, doing] {
    if (function(domain.state()->reach().get()) < 0) throw_virt<CaptureError>(doing);
    return true;
  });
  if (!done) throw Unreachable(fmt::format("{}: libvirt does not answer within {} s", doing, call_limit.count()));
}

std::string copy_xml(const std::filesystem::path& image, const std::string& format) {
  pugi::xml_document document;
  pugi::xml_node disk = document.append_child("disk");
  const bool block = std::filesystem::is_block_file(std::filesystem::status(image));
  disk.append_attribute("type") = block ? "block" : "file";
  disk.append_child("source").append_attribute(block ? "dev" : "file") = image.c_str();
  disk.append_child("driver").append_attribute("type") = format.c_str();
  std::ostringstream text;
  document.save(text, "", pugi::format_raw);
  return text.str();
}

void end_job(const Domain& domain, const std::string& target, unsigned flags) {
  call(domain, "end the copy of the disk of",
       [target, flags](virDomainPtr it) { return virDomainBlockJobAbort(it, target.c_str(), flags); });
}

}  // namespace

void start_domain(const Domain& domain) {
  call(domain, "start", virDomainCreate);
}

void remove_domain(const Domain& domain) {
  call(domain, "end",
       [](virDomainPtr target) { return virDomainIsActive(target) == 1 ? virDomainDestroy(target) : 0; });
  call(domain, "undefine", [](virDomainPtr target) {
    return virDomainUndefineFlags(target, VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
                                              VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | VIR_DOMAIN_UNDEFINE_NVRAM);
  });
}

void move_disk(const Domain& domain, const std::string& target, const std::filesystem::path& image,
               const std::string& format, const std::function<void(std::uint64_t, std::uint64_t)>& done,
               const std::stop_token& stop) {
  const std::string xml = copy_xml(image, format);
  call(domain, "copy the disk of", [target, xml](virDomainPtr it) {
    return virDomainBlockCopy(it, target.c_str(), xml.c_str(), nullptr, 0, VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB);
  });
  bool moving = false;
  try {
    for (;;) {
      const auto seen = std::make_shared<Seen>();
      call(domain, "look at the copy of the disk of", [target, seen](virDomainPtr it) {
        return seen->found = virDomainGetBlockJobInfo(it, target.c_str(), &seen->info, 0);
      });
      if (seen->found != 1) throw CaptureError(fmt::format("the copy of disk {} has ended: its target failed", target));
      done(seen->info.cur, seen->info.end);
      if (stop.stop_requested()) throw Interrupted("stopped while a disk was copied: the domain goes on where it was");
      if (seen->info.end > 0 && seen->info.cur == seen->info.end) break;
      std::this_thread::sleep_for(look_interval);
    }
    moving = true;
    end_job(domain, target, VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT);
  } catch (...) {
    // Whether it has moved over is not known then: both images stay.
    if (moving) throw;
    try {
      end_copy(domain, target);
    } catch (const std::exception& error) {
      log_warning("{}", error.what());
    }
    std::error_code ignored;
    if (std::filesystem::is_regular_file(image, ignored)) std::filesystem::remove(image, ignored);
    throw;
  }
}

void end_copy(const Domain& domain, const std::string& target) {
  end_job(domain, target, 0);
}

}  // namespace stillpoint
