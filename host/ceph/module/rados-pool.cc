// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rados-pool.hh"

#include "common/json.hh"
#include "host/ceph/module/rados-queue.hh"

#include <fmt/format.h>
#include <sys/time.h>

#include <cerrno>

namespace stillpoint {
namespace {

constexpr const char* lock_name = "stillpoint";

using WriteOperation = CPtr<void, rados_release_write_op>;
using ReadOperation = CPtr<void, rados_release_read_op>;
using EntryIterator = CPtr<void, rados_omap_get_end>;
using ObjectList = CPtr<void, rados_nobjects_list_close>;

class ObjectPool : public RadosPool {
 public:
  explicit ObjectPool(PoolContext context) : context_(std::make_shared<PoolContext>(std::move(context))) {
    // Else librados holds back what needs space, and with it what frees some, until somebody makes room.
    rados_set_pool_full_try(context_->get());
  }

  std::int64_t id() const override { return rados_ioctx_get_id(context_->get()); }
  bool is_erasure_coded() override;
  bool is_empty() override;
  RadosOutcome change(const std::string& object, const RadosChange& change) override;
  std::optional<std::map<std::string, std::string>> entries(const std::string& object,
                                                            const std::vector<std::string>& keys) override;
  std::unique_ptr<RadosQueue> queue() override { return make_rados_queue(context_); }
  bool lock(const std::string& object, const std::string& cookie, std::chrono::seconds duration) override;
  bool renew(const std::string& object, const std::string& cookie, std::chrono::seconds duration) override;
  void unlock(const std::string& object, const std::string& cookie) override;

 private:
  [[nodiscard]] std::string words(const std::string& object) const {
    return fmt::format("object {} of pool {}", object, context_->words());
  }
  int take_lock(const std::string& object, const std::string& cookie, std::chrono::seconds duration, unsigned flags);

  std::shared_ptr<PoolContext> context_;
};

bool ObjectPool::is_erasure_coded() {
  // Only an erasure-coded pool has such a profile.
  const std::string command =
      Json{{"prefix", "osd pool get"}, {"pool", context_->pool()}, {"var", "erasure_code_profile"}}.dump();
  const char* text = command.c_str();
  char* out = nullptr;
  char* message = nullptr;
  std::size_t out_length = 0;
  std::size_t message_length = 0;
  const int result =
      rados_mon_command(context_->cluster().get(), &text, 1, "", 0, &out, &out_length, &message, &message_length);
  const std::string said(message == nullptr ? "" : std::string(message, message_length));
  rados_buffer_free(out);
  rados_buffer_free(message);
  if (result == -EACCES && said.find("erasure") != std::string::npos) return false;
  ceph_check(result, fmt::format("cannot ask what kind of pool {} is", context_->pool()));
  return true;
}

bool ObjectPool::is_empty() {
  rados_list_ctx_t context = nullptr;
  const std::string what = fmt::format("cannot list the objects of pool {}", context_->words());
  ceph_check(rados_nobjects_list_open(context_->get(), &context), what);
  const ObjectList list(context);
  const char* object = nullptr;
  const int result = rados_nobjects_list_next(list.get(), &object, nullptr, nullptr);
  if (result == -ENOENT) return true;
  ceph_check(result, what);
  return false;
}

RadosOutcome ObjectPool::change(const std::string& object, const RadosChange& change) {
  const WriteOperation operation(rados_create_write_op());
  switch (change.object) {
    case RadosChange::Object::any:
      rados_write_op_create(operation.get(), LIBRADOS_CREATE_IDEMPOTENT, nullptr);
      break;
    case RadosChange::Object::exists:
      rados_write_op_assert_exists(operation.get());
      break;
    case RadosChange::Object::is_new:
      rados_write_op_create(operation.get(), LIBRADOS_CREATE_EXCLUSIVE, nullptr);
      break;
  }
  // An entry that is not there compares as an empty one.
  for (const auto& [key, value] : change.when)
    rados_write_op_omap_cmp2(operation.get(), key.data(), LIBRADOS_CMPXATTR_OP_EQ, value ? value->data() : "",
                             key.size(), value ? value->size() : 0, nullptr);
  std::vector<const char*> keys;
  std::vector<const char*> values;
  std::vector<std::size_t> key_lengths;
  std::vector<std::size_t> value_lengths;
  for (const auto& [key, value] : change.set) {
    keys.push_back(key.data());
    values.push_back(value.data());
    key_lengths.push_back(key.size());
    value_lengths.push_back(value.size());
  }
  if (!keys.empty())
    rados_write_op_omap_set2(operation.get(), keys.data(), values.data(), key_lengths.data(), value_lengths.data(),
                             keys.size());
  keys.clear();
  key_lengths.clear();
  for (const std::string& key : change.remove) {
    keys.push_back(key.data());
    key_lengths.push_back(key.size());
  }
  if (!keys.empty()) rados_write_op_omap_rm_keys2(operation.get(), keys.data(), key_lengths.data(), keys.size());
  const int result =
      rados_write_op_operate2(operation.get(), context_->get(), object.c_str(), nullptr, LIBRADOS_OPERATION_FULL_TRY);
  if (result == -ECANCELED || result == -EEXIST) return RadosOutcome::refused;
  if (result == -ENOENT) return RadosOutcome::absent;
  ceph_check(result, fmt::format("cannot change {}", words(object)));
  return RadosOutcome::done;
}

std::optional<std::map<std::string, std::string>> ObjectPool::entries(const std::string& object,
                                                                      const std::vector<std::string>& keys) {
  std::vector<const char*> texts;
  std::vector<std::size_t> lengths;
  for (const std::string& key : keys) {
    texts.push_back(key.data());
    lengths.push_back(key.size());
  }
  const ReadOperation operation(rados_create_read_op());
  rados_omap_iter_t iterator = nullptr;
  int read_result = 0;
  rados_read_op_omap_get_vals_by_keys2(operation.get(), texts.data(), texts.size(), lengths.data(), &iterator,
                                       &read_result);
  const EntryIterator found(iterator);
  const int result = rados_read_op_operate(operation.get(), context_->get(), object.c_str(), LIBRADOS_OPERATION_NOFLAG);
  if (result == -ENOENT) return std::nullopt;
  const std::string what = fmt::format("cannot read {}", words(object));
  ceph_check(result, what);
  ceph_check(read_result, what);
  std::map<std::string, std::string> entries;
  for (;;) {
    char* key = nullptr;
    char* value = nullptr;
    std::size_t key_length = 0;
    std::size_t value_length = 0;
    ceph_check(rados_omap_get_next2(found.get(), &key, &value, &key_length, &value_length), what);
    if (key == nullptr) return entries;
    entries.emplace(std::string(key, key_length), value_length == 0 ? std::string() : std::string(value, value_length));
  }
}

int ObjectPool::take_lock(const std::string& object, const std::string& cookie, std::chrono::seconds duration,
                          unsigned flags) {
  timeval lasts{.tv_sec = duration.count(), .tv_usec = 0};
  return rados_lock_exclusive(context_->get(), object.c_str(), lock_name, cookie.c_str(), "", &lasts,
                              static_cast<std::uint8_t>(flags));
}

bool ObjectPool::lock(const std::string& object, const std::string& cookie, std::chrono::seconds duration) {
  const int result = take_lock(object, cookie, duration, 0);
  if (result == -EBUSY) return false;
  ceph_check(result, fmt::format("cannot lock {}", words(object)));
  return true;
}

bool ObjectPool::renew(const std::string& object, const std::string& cookie, std::chrono::seconds duration) {
  const int result = take_lock(object, cookie, duration, LIBRADOS_LOCK_FLAG_MUST_RENEW);
  if (result == -ENOENT || result == -EBUSY) return false;
  ceph_check(result, fmt::format("cannot keep the lock of {}", words(object)));
  return true;
}

void ObjectPool::unlock(const std::string& object, const std::string& cookie) {
  const int result = rados_unlock(context_->get(), object.c_str(), lock_name, cookie.c_str());
  if (result != -ENOENT) ceph_check(result, fmt::format("cannot unlock {}", words(object)));
}

}  // namespace

std::unique_ptr<RadosPool> make_rados_pool(PoolContext context) {
  return std::make_unique<ObjectPool>(std::move(context));
}

}  // namespace stillpoint
