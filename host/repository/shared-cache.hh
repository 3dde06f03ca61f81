// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace stillpoint {

/// Keeps what is costly to make, up to a limit, least recently used first out. Whoever asks for what another thread is
/// making waits for it. What is in use outlives its place here.
template <typename Key, typename Value, typename Hash = std::hash<Key>>
class SharedCache {
 public:
  using Shared = std::shared_ptr<Value>;
  struct Made {
    Shared value;
    std::size_t cost;  ///< in the unit of the limit
  };

  explicit SharedCache(std::size_t most) : most_(most) {}

  /// What is there for the key, or what `make` (a function of no arguments that returns Made) makes of it now. What it
  /// throws is thrown to all who wait for it, and not kept.
  template <typename Make>
  Shared get(const Key& key, const Make& make) {
    std::shared_ptr<Slot> slot;
    {
      std::unique_lock lock(mutex_);
      if (const auto found = slots_.find(key); found != slots_.end()) return wait_for(found->second, lock);
      slot = slots_.emplace(key, std::make_shared<Slot>()).first->second;
    }
    try {
      return keep(key, *slot, make());
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      slot->failure = std::current_exception();
      slot->done = true;
      slots_.erase(key);
      done_.notify_all();
      throw;
    }
  }

  /// What is there for the key; null for nothing, and for what is only being made.
  [[nodiscard]] Shared find(const Key& key) {
    const std::scoped_lock lock(mutex_);
    const auto found = slots_.find(key);
    if (found == slots_.end() || !found->second->done) return nullptr;
    order_.splice(order_.begin(), order_, found->second->place);
    return found->second->value;
  }

  /// The next one who asks for it makes it anew, if it is still this.
  void forget(const Key& key, const Shared& value) {
    const std::scoped_lock lock(mutex_);
    const auto found = slots_.find(key);
    if (found == slots_.end() || !found->second->done || found->second->value != value) return;
    cost_ -= found->second->cost;
    order_.erase(found->second->place);
    slots_.erase(found);
  }

  /// Whether it is there, or being made.
  [[nodiscard]] bool holds(const Key& key) const {
    const std::scoped_lock lock(mutex_);
    return slots_.contains(key);
  }

 private:
  struct Slot {
    Shared value;
    std::exception_ptr failure;
    bool done = false;
    std::size_t cost = 0;
    typename std::list<Key>::iterator place;
  };

  Shared wait_for(std::shared_ptr<Slot> slot, std::unique_lock<std::mutex>& lock) {
    if (slot->done) {
      order_.splice(order_.begin(), order_, slot->place);
      return slot->value;
    }
    done_.wait(lock, [&] { return slot->done; });
    if (slot->failure) std::rethrow_exception(slot->failure);
    return slot->value;
  }

  Shared keep(const Key& key, Slot& slot, Made made) {
    std::vector<Shared> out;  // which end after the lock is given back
    const std::scoped_lock lock(mutex_);
    order_.push_front(key);
    slot.place = order_.begin();
    slot.value = std::move(made.value);
    slot.cost = made.cost;
    slot.done = true;
    cost_ += slot.cost;
    done_.notify_all();
    Shared value = slot.value;
    while (cost_ > most_ && order_.size() > 1) {
      const auto last = slots_.find(order_.back());
      cost_ -= last->second->cost;
      out.push_back(last->second->value);
      slots_.erase(last);
      order_.pop_back();
    }
    return value;
  }

  std::size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable done_;
  std::unordered_map<Key, std::shared_ptr<Slot>, Hash> slots_;
  std::list<Key> order_;  ///< of what is made, most recently used first
  std::size_t cost_ = 0;
};

}  // namespace stillpoint
