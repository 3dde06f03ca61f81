// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rados-queue.hh"

#include "host/ceph/module/answers.hh"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>

namespace stillpoint {
namespace {

/// An OSD gives at most 1024 by default.
constexpr std::uint64_t page_entries = 1000;
constexpr std::chrono::seconds look_again{1};

using WriteOperation = CPtr<void, rados_release_write_op>;
using ReadOperation = CPtr<void, rados_release_read_op>;
using EntryIterator = CPtr<void, rados_omap_get_end>;

class Queue : public RadosQueue {
 public:
  explicit Queue(std::shared_ptr<PoolContext> context) : context_(std::move(context)) {}

  void start_write(const std::string& object, std::span<const std::byte> bytes, std::uint64_t tag) override;
  void start_read(const std::string& object, std::uint64_t offset, std::span<std::byte> buffer,
                  std::uint64_t tag) override;
  void start_remove(const std::string& object, std::uint64_t tag) override;
  void start_page(const std::string& object, const std::string& prefix, const std::string& after,
                  std::uint64_t tag) override;
  Answer next() override;
  std::size_t in_flight() const override { return answers_.in_flight(); }

 private:
  struct Request {
    Answers<Request>* answers = nullptr;
    std::uint64_t tag = 0;
    bool is_read = false;
    int result = 0;
    EntryIterator entries;  ///< of the page
    ReadOperation page;
    unsigned char more = 0;
    int page_result = 0;
  };

  /// `start` takes the completion and returns a negative errno when there will be no answer.
  template <typename Start>
  void send(std::unique_ptr<Request> request, const std::string& object, Start start);
  static void answered(rados_completion_t completion, void* request) noexcept;

  std::shared_ptr<PoolContext> context_;
  Answers<Request> answers_;
};

template <typename Start>
void Queue::send(std::unique_ptr<Request> request, const std::string& object, Start start) {
  const int result = answers_.send(std::move(request), [&](Request& its) {
    rados_completion_t completion = nullptr;
    int started = rados_aio_create_completion2(&its, answered, &completion);
    if (started < 0) return started;
    started = start(completion);
    if (started < 0) rados_aio_release(completion);
    return started;
  });
  if (result < 0) throw CephError(fmt::format("{}: cannot ask for object {}", context_->words(), object), -result);
}

void Queue::answered(rados_completion_t completion, void* user) noexcept {
  auto* const request = static_cast<Request*>(user);
  request->result = rados_aio_get_return_value(completion);
  rados_aio_release(completion);
  Answers<Request>::put(request);
}

void Queue::start_write(const std::string& object, std::span<const std::byte> bytes, std::uint64_t tag) {
  auto request = std::make_unique<Request>();
  request->tag = tag;
  const WriteOperation operation(rados_create_write_op());
  rados_write_op_write_full(operation.get(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
  send(std::move(request), object, [&](rados_completion_t completion) {
    return rados_aio_write_op_operate(operation.get(), context_->get(), completion, object.c_str(), nullptr,
                                      LIBRADOS_OPERATION_FULL_TRY);
  });
}

void Queue::start_read(const std::string& object, std::uint64_t offset, std::span<std::byte> buffer,
                       std::uint64_t tag) {
  auto request = std::make_unique<Request>();
  request->tag = tag;
  request->is_read = true;
  send(std::move(request), object, [&](rados_completion_t completion) {
    return rados_aio_read(context_->get(), object.c_str(), completion, reinterpret_cast<char*>(buffer.data()),
                          buffer.size(), offset);
  });
}

void Queue::start_remove(const std::string& object, std::uint64_t tag) {
  auto request = std::make_unique<Request>();
  request->tag = tag;
  const WriteOperation operation(rados_create_write_op());
  rados_write_op_remove(operation.get());
  send(std::move(request), object, [&](rados_completion_t completion) {
    return rados_aio_write_op_operate(operation.get(), context_->get(), completion, object.c_str(), nullptr,
                                      LIBRADOS_OPERATION_FULL_TRY);
  });
}

void Queue::start_page(const std::string& object, const std::string& prefix, const std::string& after,
                       std::uint64_t tag) {
  auto request = std::make_unique<Request>();
  Request& its = *request;
  its.tag = tag;
  its.page.reset(rados_create_read_op());
  rados_omap_iter_t entries = nullptr;
  rados_read_op_omap_get_vals2(its.page.get(), after.c_str(), prefix.c_str(), page_entries, &entries, &its.more,
                               &its.page_result);
  its.entries.reset(entries);
  send(std::move(request), object, [&](rados_completion_t completion) {
    return rados_aio_read_op_operate(its.page.get(), context_->get(), completion, object.c_str(),
                                     LIBRADOS_OPERATION_NOFLAG);
  });
}

RadosQueue::Answer Queue::next() {
  std::unique_ptr<Request> request;
  while (request == nullptr)
    request = answers_.next(look_again);
  Answer answer;
  answer.tag = request->tag;
  if (request->result < 0) {
    answer.error = -request->result;
  } else if (request->is_read) {
    answer.bytes = static_cast<std::size_t>(request->result);
  } else if (request->page) {
    if (request->page_result < 0) answer.error = -request->page_result;
    answer.page.more = request->more != 0;
    const char* key = nullptr;
    const char* value = nullptr;
    std::size_t key_length = 0;
    std::size_t value_length = 0;
    while (answer.error == 0) {
      if (rados_omap_get_next2(request->entries.get(), const_cast<char**>(&key), const_cast<char**>(&value),
                               &key_length, &value_length) < 0)
        answer.error = EIO;
      if (answer.error != 0 || key == nullptr) break;
      answer.page.entries.emplace_back(std::string(key, key_length),
                                       value_length == 0 ? std::string() : std::string(value, value_length));
    }
  }
  return answer;
}

}  // namespace

std::unique_ptr<RadosQueue> make_rados_queue(std::shared_ptr<PoolContext> context) {
  return std::make_unique<Queue>(std::move(context));
}

}  // namespace stillpoint
