// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>

namespace stillpoint::test {

/// A store that counts its steps, and does something else at one of them: before an operation that changes something,
/// in its middle (half of the bytes are written), after it, before one that reads, and before one that lists.
class FaultyStore : public Store {
 public:
  enum class Step { change, middle, changed, read, look };
  /// Called at every step; may throw, or end the process.
  using Fault = std::function<void(Step step, std::uint64_t number)>;

  FaultyStore(std::unique_ptr<Store> real, Fault fault) : real_(std::move(real)), fault_(std::move(fault)) {}

  /// From now on the packs that are there seem to have been written a day ago.
  void make_packs_old();

  [[nodiscard]] std::uint64_t steps() const noexcept { return number_; }

  [[nodiscard]] const std::string& url() const override { return real_->url(); }
  [[nodiscard]] std::optional<std::filesystem::path> directory() const override { return real_->directory(); }
  [[nodiscard]] std::unique_ptr<ObjectWriter> writer(std::string name) override;
  [[nodiscard]] std::unique_ptr<ObjectReader> reader(const std::string& name) override;
  [[nodiscard]] std::unique_ptr<ObjectView> view(const std::string& name) override;
  [[nodiscard]] std::vector<ObjectInfo> list(std::string_view prefix) override;
  [[nodiscard]] bool exists(const std::string& name) override { return real_->exists(name); }
  void remove(const std::string& name) override;
  void work_under(std::string_view lease) override { real_->work_under(lease); }
  void drop_unfinished(std::string_view lease) override;
  [[nodiscard]] std::unique_ptr<StoreLock> try_lock(const std::string& name) override { return real_->try_lock(name); }

  void step(Step step) { fault_(step, ++number_); }
  /// After a commit. `name`: of the object, for a fault that undoes or tears what was just made.
  void committed(const std::string& name) {
    committed_ = name;
    step(Step::changed);
    committed_.clear();
  }
  /// The object whose commit is at its last step; empty otherwise.
  [[nodiscard]] const std::string& just_committed() const noexcept { return committed_; }

 private:
  std::unique_ptr<Store> real_;
  Fault fault_;
  std::set<std::string> old_;  ///< objects
  std::atomic<std::uint64_t> number_{0};
  inline static thread_local std::string committed_;
};

}  // namespace stillpoint::test
