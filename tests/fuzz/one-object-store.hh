// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"
#include "host/repository/store.hh"

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace stillpoint::fuzz {

/// A store in which every name is the same object, and nothing can be written.
class OneObjectStore : public Store {
 public:
  explicit OneObjectStore(std::span<const std::byte> content) : content_(content) {}

  [[nodiscard]] const std::string& url() const override { return url_; }
  [[nodiscard]] std::unique_ptr<ObjectWriter> writer(std::string) override { refuse(); }
  [[nodiscard]] std::unique_ptr<ObjectReader> reader(const std::string&) override {
    return std::make_unique<Reader>(content_);
  }
  [[nodiscard]] std::unique_ptr<ObjectView> view(const std::string&) override {
    return memory_view({content_.begin(), content_.end()});
  }
  [[nodiscard]] std::vector<ObjectInfo> list(std::string_view) override { return {}; }
  [[nodiscard]] bool exists(const std::string&) override { return true; }
  void remove(const std::string&) override { refuse(); }
  void work_under(std::string_view) override {}
  void drop_unfinished(std::string_view) override {}
  [[nodiscard]] std::unique_ptr<StoreLock> try_lock(const std::string&) override { return nullptr; }

 private:
  class Reader : public ObjectReader {
   public:
    explicit Reader(std::span<const std::byte> content) : content_(content) {}
    [[nodiscard]] std::uint64_t size() const override { return content_.size(); }
    void read(std::uint64_t offset, std::span<std::byte> buffer) override {
      if (offset > content_.size() || buffer.size() > content_.size() - offset) throw Corruption("it ends before");
      std::memcpy(buffer.data(), content_.data() + offset, buffer.size());
    }

   private:
    std::span<const std::byte> content_;
  };
  [[noreturn]] static void refuse() { throw StorageError("nothing can be written here"); }

  std::string url_ = "memory";
  std::span<const std::byte> content_;
};

}  // namespace stillpoint::fuzz
