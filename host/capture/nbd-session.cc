// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/nbd-session.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::uint32_t most_in_a_request = std::uint32_t{32} << 20;

CPtr<nbd_handle, nbd_close> new_connection() {
  CPtr<nbd_handle, nbd_close> nbd(nbd_create());
  if (!nbd) throw CaptureError(fmt::format("cannot begin an NBD session: {}", nbd_get_error()));
  // Every answer is checked, so that clearing the buffers first would be wasted.
  nbd_set_pread_initialize(nbd.get(), false);
  return nbd;
}

bool program_exists(std::string_view name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (::access((std::filesystem::path(folder) / name).c_str(), X_OK) == 0) return true;
  return false;
}

void check_image(const std::filesystem::path& image, std::string_view format) {
  const auto is_word = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  if (format.empty() || !std::all_of(format.begin(), format.end(), is_word))
    throw UsageError(fmt::format("\"{}\" is not a disk format", format), "name it as qemu-img does: raw, qcow2, ...");
  std::error_code error;
  if (!std::filesystem::exists(image, error))
    throw UsageError(fmt::format("there is no image {}", image.native()), "check the path");
  if (!program_exists("qemu-nbd"))
    throw CaptureError("qemu-nbd is not installed", "install QEMU's tools (Debian: qemu-utils)");
}

/// The last line of what qemu-nbd said, without its own name.
std::string last_message(int fd) {
  std::array<char, 4096> text{};
  const ssize_t n = ::pread(fd, text.data(), text.size(), 0);
  std::string_view all(text.data(), n > 0 ? static_cast<std::size_t>(n) : 0);
  while (!all.empty() && all.back() == '\n')
    all.remove_suffix(1);
  // The first line is the cause; what follows is advice for another program.
  all = all.substr(0, all.find('\n'));
  if (const auto colon = all.find("qemu-nbd: "); colon != std::string_view::npos) all.remove_prefix(colon + 10);
  return std::string(all);
}

}  // namespace

NbdSession::NbdSession(const std::filesystem::path& socket, std::string_view export_name,
                       const std::vector<std::string>& contexts, std::chrono::milliseconds answer_limit)
    : name_(fmt::format("NBD export \"{}\" at {}", export_name, socket.native())),
      answer_limit_(answer_limit),
      nbd_(new_connection()) {
  if (nbd_set_export_name(get(), std::string(export_name).c_str()) != 0) fail("cannot name it");
  for (const std::string& context : contexts)
    if (nbd_add_meta_context(get(), context.c_str()) != 0) fail(fmt::format("cannot ask for {}", context));
  if (nbd_aio_connect_unix(get(), socket.c_str()) != 0) fail("cannot connect");
  complete_handshake();
}

NbdSession::NbdSession(const std::filesystem::path& image, std::string_view format, Access access,
                       std::chrono::milliseconds answer_limit)
    : name_(image.native()), answer_limit_(answer_limit) {
  check_image(image, format);
  messages_ = UniqueFd(::memfd_create("qemu-nbd", MFD_CLOEXEC));
  if (!messages_) throw_errno<CaptureError>("cannot make a buffer for messages");
  // Through the shell, so that its stderr is ours to read without a descriptor that other children would inherit.
  const std::string script = fmt::format("exec 2>/proc/{}/fd/{}; exec \"$@\"", ::getpid(), messages_.get());
  std::vector<std::string> words = {"/bin/sh", "-c", script, "sh", "qemu-nbd", "-f", std::string(format)};
  if (access == Access::read_only) words.emplace_back("--read-only");
  if (access == Access::write_uncached) words.emplace_back("--cache=none");
  words.emplace_back("--");
  // An absolute path is never taken for a protocol ("nbd:...").
  words.push_back(std::filesystem::absolute(image).native());
  std::vector<char*> argv;
  for (std::string& word : words)
    argv.push_back(word.data());
  argv.push_back(nullptr);

  nbd_ = new_connection();
  if (nbd_add_meta_context(get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 0) fail("cannot ask for its allocation");
  if (nbd_aio_connect_systemd_socket_activation(get(), argv.data()) != 0) fail("cannot start qemu-nbd");
  complete_handshake();
}

void NbdSession::complete_handshake() {
  asked();
  while (nbd_aio_is_connecting(get()) > 0)
    work(answer_limit_);
  if (nbd_aio_is_ready(get()) <= 0) fail("cannot connect");
  const std::int64_t size = nbd_get_size(get());
  if (size < 0) fail("its size is unknown");
  size_ = static_cast<std::uint64_t>(size);
  const std::int64_t smallest = nbd_get_block_size(get(), LIBNBD_SIZE_MINIMUM);
  if (smallest > 1) block_ = static_cast<std::uint32_t>(std::min<std::int64_t>(smallest, 65536));
  if (!std::has_single_bit(block_)) fail("its block size is no power of two");
  if (size_ % block_ != 0) fail("its size is no multiple of its block size");
  const std::int64_t most = nbd_get_block_size(get(), LIBNBD_SIZE_MAXIMUM);
  max_request_ = most > 0 ? static_cast<std::uint32_t>(std::clamp<std::int64_t>(most, block_, most_in_a_request))
                          : most_in_a_request;
  max_request_ -= max_request_ % block_;
}

bool NbdSession::has_context(const std::string& context) const noexcept {
  return nbd_ && nbd_can_meta_context(get(), context.c_str()) == 1;
}

void NbdSession::work(std::chrono::milliseconds patience) {
  if (!nbd_) throw CaptureError(fmt::format("{}: the session has ended", name_));
  const auto silent_until = heard_at_ + answer_limit_;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(silent_until - SteadyClock::now());
  const auto wait = std::clamp(left, std::chrono::milliseconds(0), patience);
  const int events = nbd_poll(get(), static_cast<int>(wait.count()));
  if (events < 0 || nbd_aio_is_dead(get()) > 0) fail("the server ended the connection");
  if (events > 0) {
    asked();
  } else if (SteadyClock::now() >= silent_until) {
    throw CaptureError(fmt::format("{}: no answer for {} s", name_,
                                   std::chrono::duration_cast<std::chrono::duration<double>>(answer_limit_).count()),
                       "the storage or the server behind it hangs: look at it, then run again");
  }
}

void NbdSession::flush() {
  if (!nbd_) throw CaptureError(fmt::format("{}: the session has ended", name_));
  if (nbd_can_flush(get()) <= 0) return;
  const std::int64_t cookie = nbd_aio_flush(get(), nbd_completion_callback{}, 0);
  if (cookie < 0) fail("cannot flush");
  asked();
  for (;;) {
    const int done = nbd_aio_command_completed(get(), static_cast<std::uint64_t>(cookie));
    if (done > 0) return;
    if (done < 0) fail("cannot flush");
    work(answer_limit_);
  }
}

void NbdSession::close() {
  if (!nbd_) return;
  if (nbd_aio_disconnect(get(), 0) == 0) {
    asked();
    while (nbd_aio_is_closed(get()) == 0 && nbd_aio_is_dead(get()) == 0)
      if (nbd_poll(get(), static_cast<int>(answer_limit_.count())) <= 0) break;
  }
  nbd_.reset();
}

void NbdSession::fail(std::string_view what) const {
  std::string reason = messages_ ? last_message(messages_.get()) : std::string();
  std::string hint;
  if (reason.find(" lock") != std::string::npos)
    hint = "a running guest or another program uses the image: shut it off, or back the domain up by its name";
  if (reason.empty()) {
    const char* error = nbd_get_error();
    reason = error != nullptr ? error : "unknown error";
  }
  throw CaptureError(fmt::format("{}: {}: {}", name_, what, reason), hint);
}

}  // namespace stillpoint
