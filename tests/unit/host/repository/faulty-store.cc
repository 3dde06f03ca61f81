// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/unit/host/repository/faulty-store.hh"

#include <utility>

namespace stillpoint::test {

namespace {

using Step = FaultyStore::Step;

class FaultyWriter : public ObjectWriter {
 public:
  FaultyWriter(FaultyStore& store, std::unique_ptr<ObjectWriter> real, std::string name)
      : store_(store), real_(std::move(real)), name_(std::move(name)) {}

  void append(std::span<const std::byte> bytes) override {
    store_.step(Step::change);
    const std::size_t half = bytes.size() / 2;
    real_->append(bytes.first(half));
    store_.step(Step::middle);
    real_->append(bytes.subspan(half));
  }
  void commit() override {
    store_.step(Step::change);
    real_->commit();
    store_.committed(name_);
  }

 private:
  FaultyStore& store_;
  std::unique_ptr<ObjectWriter> real_;
  std::string name_;
};

class FaultyReader : public ObjectReader {
 public:
  FaultyReader(FaultyStore& store, std::unique_ptr<ObjectReader> real) : store_(store), real_(std::move(real)) {}
  [[nodiscard]] std::uint64_t size() const override { return real_->size(); }
  void read(std::uint64_t offset, std::span<std::byte> buffer) override {
    store_.step(Step::read);
    real_->read(offset, buffer);
  }

 private:
  FaultyStore& store_;
  std::unique_ptr<ObjectReader> real_;
};

}  // namespace

std::unique_ptr<ObjectWriter> FaultyStore::writer(std::string name) {
  step(Step::change);
  return std::make_unique<FaultyWriter>(*this, real_->writer(name), name);
}

std::unique_ptr<ObjectReader> FaultyStore::reader(const std::string& name) {
  step(Step::read);
  return std::make_unique<FaultyReader>(*this, real_->reader(name));
}

std::unique_ptr<ObjectView> FaultyStore::view(const std::string& name) {
  step(Step::read);
  return real_->view(name);
}

std::vector<ObjectInfo> FaultyStore::list(std::string_view prefix) {
  step(Step::look);
  std::vector<ObjectInfo> objects = real_->list(prefix);
  for (ObjectInfo& object : objects)
    if (old_.contains(object.name)) object.modified -= std::chrono::hours(24);
  return objects;
}

void FaultyStore::make_packs_old() {
  for (const ObjectInfo& object : real_->list("packs"))
    old_.insert(object.name);
}

void FaultyStore::remove(const std::string& name) {
  step(Step::change);
  real_->remove(name);
  step(Step::changed);
}

void FaultyStore::drop_unfinished(std::string_view lease) {
  step(Step::change);
  real_->drop_unfinished(lease);
}

}  // namespace stillpoint::test
