// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rados-queue.hh"

#include <fmt/format.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>

namespace stillpoint {
namespace {

/// An OSD gives at most 1024 by default.
constexpr std::uint64_t page_entries = 1000;

using WriteOperation = CPtr<void, rados_release_write_op>;
using ReadOperation = CPtr<void, rados_release_read_op>;
using EntryIterator = CPtr<void, rados_omap_get_end>;

class Queue : public RadosQueue {
 public:
  explicit Queue(std::shared_ptr<PoolContext> context) : context_(std::move(context)) {}
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue() override {
    std::unique_lock lock(mutex_);
    answer_.wait(lock, [this] { return answered_.size() == sent_; });
    for (Request* request : answered_)
      std::unique_ptr<Request>(request).reset();
  }

  void start_write(const std::string& object, std::span<const std::byte> bytes, std::uint64_t tag) override;
  void start_read(const std::string& object, std::uint64_t offset, std::span<std::byte> buffer,
                  std::uint64_t tag) override;
  void start_remove(const std::string& object, std::uint64_t tag) override;
  void start_page(const std::string& object, const std::string& prefix, const std::string& after,
                  std::uint64_t tag) override;
  Answer next() override;
  std::size_t in_flight() const override { return sent_; }

 private:
  struct Request {
    Queue* queue = nullptr;
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
  std::mutex mutex_;
  std::condition_variable answer_;
  std::vector<Request*> answered_;
  std::size_t sent_ = 0;  ///< not yet taken; the one thread's, changed under the lock
};

template <typename Start>
void Queue::send(std::unique_ptr<Request> request, const std::string& object, Start start) {
  {
    const std::lock_guard lock(mutex_);
    answered_.reserve(sent_ + 1);  // nothing may throw where the answer comes
    ++sent_;
  }
  request->queue = this;
  rados_completion_t completion = nullptr;
  int result = rados_aio_create_completion2(request.get(), answered, &completion);
  if (result >= 0) {
    result = start(completion);
    if (result < 0) rados_aio_release(completion);
  }
  if (result < 0) {
    const std::lock_guard lock(mutex_);
    --sent_;
    throw CephError(fmt::format("{}: cannot ask for object {}", context_->words(), object), -result);
  }
  static_cast<void>(request.release());  // answered() has it now
}

void Queue::answered(rados_completion_t completion, void* user) noexcept {
  auto* const request = static_cast<Request*>(user);
  request->result = rados_aio_get_return_value(completion);
  rados_aio_release(completion);
  Queue& queue = *request->queue;
  const std::lock_guard lock(queue.mutex_);
  queue.answered_.push_back(request);
  // Under the lock: who waits may end the queue as soon as he has it.
  queue.answer_.notify_one();
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
  {
    std::unique_lock lock(mutex_);
    answer_.wait(lock, [this] { return !answered_.empty(); });
    request.reset(answered_.back());
    answered_.pop_back();
    --sent_;
  }
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
