// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/cipher.hh"
#include "host/repository/pack.hh"

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <span>
#include <utility>

namespace stillpoint {

/// Stored bytes of a sealed record: salt, nonce, ciphertext, tag. The salt is a writer's, and makes its key; the nonce
/// counts its records. So no two writers share a key, and a record can be read, or copied, wherever it lies.
inline constexpr std::size_t record_salt_bytes = 16;
inline constexpr std::size_t sealed_overhead = record_salt_bytes + cipher_nonce_bytes + cipher_tag_bytes;
static_assert(sealed_overhead == sealed_record_bytes);
using RecordSalt = std::array<std::byte, record_salt_bytes>;

/// What all threads of one writer share: its salt, key, and count.
class WriterKey {
 public:
  /// `data`: the repository's secret for records.
  explicit WriterKey(const Secret& data);
  [[nodiscard]] const RecordSalt& salt() const noexcept { return salt_; }
  [[nodiscard]] const Secret& key() const noexcept { return key_; }
  [[nodiscard]] std::uint64_t next() noexcept { return count_++; }

 private:
  RecordSalt salt_;
  Secret key_;
  std::atomic<std::uint64_t> count_{0};
};

/// Seals records for a writer. One for each thread.
class RecordSealer {
 public:
  explicit RecordSealer(WriterKey& writer) : writer_(writer), cipher_(writer.key()) {}
  /// `header` is complete but for the CRC; `stored` has the plain bytes' length and sealed_overhead more.
  void seal(const RecordHeader& header, std::span<const std::byte> plain, std::span<std::byte> stored);

 private:
  WriterKey& writer_;
  Cipher cipher_;
};

/// Opens records of any writer. One for each thread.
class RecordOpener {
 public:
  explicit RecordOpener(const Secret& data) : data_(data) {}
  /// `plain` is sealed_overhead shorter than `stored`. False when it is not what was sealed.
  [[nodiscard]] bool open(const RecordHeader& header, std::span<const std::byte> stored, std::span<std::byte> plain);

 private:
  Cipher& cipher_of(const RecordSalt& salt);

  Secret data_;
  std::list<std::pair<RecordSalt, Cipher>> ciphers_;  ///< most recently used first
};

}  // namespace stillpoint
