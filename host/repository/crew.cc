// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/crew.hh"

#include <algorithm>
#include <exception>
#include <utility>

namespace stillpoint {

namespace {

/// Shared by the callers of one for_each; outlives it in jobs that come too late to do anything.
struct Batch {
  std::mutex mutex;
  std::condition_variable ended;
  const std::function<void(std::size_t)>* work = nullptr;
  std::size_t next = 0;
  std::size_t count = 0;
  std::size_t running = 0;
  std::exception_ptr failure;

  void take_part() noexcept {
    std::unique_lock lock(mutex);
    while (next < count) {
      const std::size_t number = next++;
      ++running;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        (*work)(number);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      --running;
      if (thrown && !failure) {
        failure = thrown;
        next = count;
      }
    }
    if (running == 0) ended.notify_all();
  }
};

class BatchJob : public Job {
 public:
  explicit BatchJob(std::shared_ptr<Batch> batch) : batch_(std::move(batch)) {}
  void run() noexcept override { batch_->take_part(); }

 private:
  std::shared_ptr<Batch> batch_;
};

}  // namespace

Crew::Crew() : size_(std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 64)) {}

Crew::~Crew() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
}

void Crew::post(std::unique_ptr<Job> job) {
  {
    const std::scoped_lock lock(mutex_);
    queue_.push_back(std::move(job));
    while (threads_.size() < size_)
      threads_.emplace_back([this] { serve(); });
  }
  wake_.notify_one();
}

void Crew::serve() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return ending_ || !queue_.empty(); });
      if (queue_.empty()) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    job->run();
  }
}

void Crew::for_each(std::size_t count, const std::function<void(std::size_t)>& work) {
  if (count == 1) return work(0);
  const auto batch = std::make_shared<Batch>();
  batch->work = &work;
  batch->count = count;
  for (std::size_t i = 1; i < std::min(count, size_); ++i)
    post(std::make_unique<BatchJob>(batch));
  batch->take_part();
  std::unique_lock lock(batch->mutex);
  batch->ended.wait(lock, [&] { return batch->running == 0; });
  if (batch->failure) std::rethrow_exception(batch->failure);
}

}  // namespace stillpoint
