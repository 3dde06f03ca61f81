// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/stream-bridge.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <libvirt/virterror.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <string_view>
#include <vector>

namespace stillpoint {

namespace {

using StreamPtr = CPtr<virStream, virStreamFree>;

constexpr std::size_t piece_bytes = std::size_t{256} << 10;
/// What a guest may have under way to us, over all credit that it can ever have: more than this is an attack, and
/// libvirt would let it grow without bound.
constexpr std::size_t most_pending = std::size_t{64} << 20;

/// Bytes on their way, without moving the rest at every step.
class Pending {
 public:
  void append(std::string_view bytes) { bytes_ += bytes; }
  [[nodiscard]] std::string_view rest() const noexcept { return std::string_view(bytes_).substr(start_); }
  [[nodiscard]] bool empty() const noexcept { return start_ == bytes_.size(); }
  void drop(std::size_t count) {
    start_ += count;
    if (start_ == bytes_.size() || start_ >= bytes_.size() / 2 + piece_bytes) {
      bytes_.erase(0, start_);
      start_ = 0;
    }
  }

 private:
  std::string bytes_;
  std::size_t start_ = 0;
};

}  // namespace

/// Lives in libvirt's event loop; the loop's callbacks keep it alive. `mutex_` is never held while libvirt could wait
/// for the event loop.
class StreamBridge::Flow : public std::enable_shared_from_this<StreamBridge::Flow> {
 public:
  Flow(StreamPtr stream, UniqueFd socket)
      : stream_(std::move(stream)), socket_(std::move(socket)), piece_(piece_bytes) {}

  void start() {
    const std::lock_guard lock(mutex_);
    watch_ = virEventAddHandle(socket_.get(), VIR_EVENT_HANDLE_READABLE, on_socket,
                               new std::shared_ptr<Flow>(shared_from_this()), forget);
    if (watch_ < 0) throw_virt<Unreachable>("cannot watch the channel");
    if (virStreamEventAddCallback(stream_.get(), VIR_STREAM_EVENT_READABLE, on_stream,
                                  new std::shared_ptr<Flow>(shared_from_this()), forget) < 0) {
      virEventRemoveHandle(watch_);
      throw_virt<Unreachable>("cannot watch the channel");
    }
  }

  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    virStreamEventRemoveCallback(stream_.get());
    virEventRemoveHandle(watch_);
    virStreamAbort(stream_.get());
  }

 private:
  static void forget(void* opaque) { delete static_cast<std::shared_ptr<Flow>*>(opaque); }

  static void on_socket(int /*watch*/, int /*fd*/, int /*events*/, void* opaque) {
    (*static_cast<std::shared_ptr<Flow>*>(opaque))->move_bytes();
  }

  static void on_stream(virStreamPtr /*stream*/, int events, void* opaque) {
    const std::shared_ptr<Flow> flow = *static_cast<std::shared_ptr<Flow>*>(opaque);
    flow->move_bytes();
    if ((events & (VIR_STREAM_EVENT_ERROR | VIR_STREAM_EVENT_HANGUP)) != 0) flow->give_up();
  }

  void give_up() noexcept {
    const std::lock_guard lock(mutex_);
    close();
  }

  /// Nothing of C++ may pass through libvirt's loop.
  void move_bytes() noexcept {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    try {
      if (!receive() || !deliver() || !accept() || !transmit())
        close();
      else
        update_events();
    } catch (const std::exception&) {
      close();
    }
  }

  /// channel -> memory
  [[nodiscard]] bool receive() {
    while (true) {
      const int got = virStreamRecv(stream_.get(), piece_.data(), piece_.size());
      if (got == -2) return true;
      if (got <= 0) return false;
      to_us_.append({piece_.data(), static_cast<std::size_t>(got)});
      if (to_us_.rest().size() > most_pending) return false;
      if (!deliver()) return false;
    }
  }

  /// memory -> socket
  [[nodiscard]] bool deliver() {
    while (!to_us_.empty()) {
      const std::string_view rest = to_us_.rest();
      const ssize_t sent = ::send(socket_.get(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      to_us_.drop(static_cast<std::size_t>(sent));
    }
    return true;
  }

  /// socket -> memory, one piece at a time: what the guest does not read stays with the sender, who has a deadline.
  [[nodiscard]] bool accept() {
    if (!to_guest_.empty()) return true;
    const ssize_t got = ::recv(socket_.get(), piece_.data(), piece_.size(), MSG_DONTWAIT);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    to_guest_.append({piece_.data(), static_cast<std::size_t>(got)});
    return true;
  }

  /// memory -> channel
  [[nodiscard]] bool transmit() {
    while (!to_guest_.empty()) {
      const std::string_view rest = to_guest_.rest();
      const int sent = virStreamSend(stream_.get(), rest.data(), rest.size());
      if (sent == -2) return true;
      if (sent < 0) return false;
      to_guest_.drop(static_cast<std::size_t>(sent));
    }
    return true;
  }

  void update_events() {
    int stream_events = VIR_STREAM_EVENT_READABLE;
    int socket_events = 0;
    if (to_guest_.empty())
      socket_events |= VIR_EVENT_HANDLE_READABLE;
    else
      stream_events |= VIR_STREAM_EVENT_WRITABLE;
    if (!to_us_.empty()) socket_events |= VIR_EVENT_HANDLE_WRITABLE;
    virStreamEventUpdateCallback(stream_.get(), stream_events);
    virEventUpdateHandle(watch_, socket_events);
  }

  void close() noexcept {
    if (closed_) return;
    closed_ = true;
    ::shutdown(socket_.get(), SHUT_RDWR);
    virStreamEventUpdateCallback(stream_.get(), 0);
    virEventUpdateHandle(watch_, 0);
  }

  const StreamPtr stream_;
  const UniqueFd socket_;
  int watch_ = -1;
  std::mutex mutex_;
  bool closed_ = false;
  std::vector<char> piece_;
  Pending to_us_;
  Pending to_guest_;
};

StreamBridge::StreamBridge(const Domain& domain, const std::string& channel) {
  const std::shared_ptr<virDomain> target = domain.state()->reach();
  StreamPtr stream(virStreamNew(virDomainGetConnect(target.get()), VIR_STREAM_NONBLOCK));
  if (!stream) throw_virt<Unreachable>("cannot make a stream");
  if (virDomainOpenChannel(target.get(), channel.c_str(), stream.get(), 0) < 0) {
    const VirtFault fault = last_virt_fault();
    const std::string what = fmt::format("cannot open the channel {} of {}", channel, domain.name());
    if (fault.code == VIR_ERR_OPERATION_FAILED && fault.message.find("ctive") != std::string::npos)
      throw Locked(virt_message(what, fault), "another companion talks to the agent: wait for it to end");
    throw_virt<Unreachable>(what, fault);
  }
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno<Unreachable>("socketpair");
  socket_ = UniqueFd(ends[0]);
  UniqueFd far_end(ends[1]);
  const int room = 1 << 20;
  static_cast<void>(::setsockopt(far_end.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room));
  flow_ = std::make_shared<Flow>(std::move(stream), std::move(far_end));
  flow_->start();
}

StreamBridge::~StreamBridge() {
  flow_->stop();
}

}  // namespace stillpoint
