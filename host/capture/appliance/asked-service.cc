// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance/asked-service.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>
#include <new>
#include <string>

namespace stillpoint {

namespace {

constexpr rlim_t most_memory = rlim_t{2} << 30;

void tell(Parent& parent, wire::Type type, std::string_view text) {
  wire::Writer message(type);
  message.string(text.substr(0, wire::max_text));
  parent.send(message.finish());
}

}  // namespace

void AskedService::serve() {
  for (;;)
    answer(parent_.receive());
}

void AskedService::say(wire::Type type, std::string_view text) {
  tell(parent_, type, text);
}

void AskedService::await_next() {
  for (;;) {
    const wire::Message message = parent_.receive();
    if (message.type == wire::Type::next) return;
    answer(message);
  }
}

void AskedService::limit_memory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which need terabytes
  const rlimit memory = {most_memory, most_memory};
  if (::setrlimit(RLIMIT_AS, &memory) != 0) throw_errno("cannot limit the worker's memory");
#endif
}

void AskedService::answer(const wire::Message& message) {
  wire::Reader request(message.payload);
  try {
    if (message.type == wire::Type::list) {
      list(request);
    } else if (message.type == wire::Type::walk) {
      const std::uint32_t number = request.u32();
      const std::string_view path = request.string(wire::max_path);
      walk(number, path, request.u8() != 0);
      parent_.send(wire::Writer(wire::Type::end).finish());
    } else if (message.type == wire::Type::content) {
      read_content(request);
    } else {
      throw CaptureError("a request that is not known");
    }
  } catch (const NotFound& error) {
    say(wire::Type::not_found, error.what());
  } catch (const std::bad_alloc&) {
    say(wire::Type::failure, "it takes more memory than a sound file system would");
  } catch (const std::exception& error) {
    say(wire::Type::failure, error.what());
  }
}

void AskedService::read_content(wire::Reader& request) {
  const std::uint64_t offset = request.u64();
  const std::uint32_t length = request.u32();
  if (length > wire::max_read) throw CaptureError("there is no such content");
  std::string bytes(length, '\0');
  read(bytes, offset);
  wire::Writer answer(wire::Type::blocks);
  answer.bytes(bytes);
  parent_.send(answer.finish());
}

int run_asked_worker(std::string_view name, const std::function<void(Parent&)>& serve) {
  int type = 0;
  socklen_t length = sizeof type;
  if (::getsockopt(questions_fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    const std::string text = std::string(name) + " is started by stillpoint itself\n";
    return ::write(STDERR_FILENO, text.data(), text.size()) > 0 ? 2 : 3;
  }
  for (const int fd : {questions_fd, blocks_socket})
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  Parent parent(questions_fd);
  try {
    serve(parent);
  } catch (const std::exception& error) {
    tell(parent, wire::Type::failure, error.what());
  }
  ::_exit(1);
}

}  // namespace stillpoint
