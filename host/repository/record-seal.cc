// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/record-seal.hh"

#include "host/repository/little-endian.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// Writers whose records lie beside each other after a prune.
constexpr std::size_t kept_ciphers = 32;
constexpr std::string_view purpose = "stillpoint writer";

using Encoded = std::array<std::byte, record_header_bytes>;

/// What of a header is bound to its record: all but magic and CRCs.
std::span<const std::byte> bound(const Encoded& encoded) {
  constexpr std::size_t from = 4;
  constexpr std::size_t until = 48;
  return std::span(encoded).subspan(from, until - from);
}

}  // namespace

WriterKey::WriterKey(const Secret& data) {
  fill_random(salt_);
  key_ = derive_secret(data.bytes(), salt_, purpose);
}

void RecordSealer::seal(const RecordHeader& header, std::span<const std::byte> plain, std::span<std::byte> stored) {
  Encoded encoded;
  encode(header, encoded);
  std::ranges::copy(writer_.salt(), stored.begin());
  const auto nonce = stored.subspan<record_salt_bytes, cipher_nonce_bytes>();
  std::ranges::fill(nonce, std::byte{0});
  put_le(nonce.data(), writer_.next());
  cipher_.seal(nonce, bound(encoded), plain, stored.subspan(record_salt_bytes + cipher_nonce_bytes));
}

bool RecordOpener::open(const RecordHeader& header, std::span<const std::byte> stored, std::span<std::byte> plain) {
  if (stored.size() < sealed_overhead) return false;
  Encoded encoded;
  encode(header, encoded);
  RecordSalt salt;
  std::ranges::copy(stored.first<record_salt_bytes>(), salt.begin());
  return cipher_of(salt).open(stored.subspan<record_salt_bytes, cipher_nonce_bytes>(), bound(encoded),
                              stored.subspan(record_salt_bytes + cipher_nonce_bytes), plain);
}

Cipher& RecordOpener::cipher_of(const RecordSalt& salt) {
  const auto found = std::ranges::find(ciphers_, salt, &std::pair<RecordSalt, Cipher>::first);
  if (found != ciphers_.end()) {
    ciphers_.splice(ciphers_.begin(), ciphers_, found);
  } else {
    ciphers_.emplace_front(salt, Cipher(derive_secret(data_.bytes(), salt, purpose)));
    if (ciphers_.size() > kept_ciphers) ciphers_.pop_back();
  }
  return ciphers_.front().second;
}

}  // namespace stillpoint
