// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/checksum.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "host/repository/sha256.hh"

#ifdef __x86_64__
#include <immintrin.h>
#endif
#include <isa-l/crc.h>
#include <isa-l/mem_routines.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <algorithm>
#include <array>
#include <climits>
#include <optional>
#include <string>

namespace stillpoint {

namespace {

#ifdef __x86_64__
[[gnu::target("avx")]] void zero_upper_halves() noexcept {
  _mm256_zeroupper();
}
#endif

/// After each call of libisal, which leaves the upper halves of the vector registers dirty. With these, SHA
/// instructions, OpenSSL's too, take half as long again on an EPYC, and 150 times as long on a Xeon of the fifth
/// generation: 12 MB/s (measured with libisal 2.30).
void clean_registers() noexcept {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx") != 0) zero_upper_halves();
#endif
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes) noexcept {
  std::uint32_t crc = 0xffffffff;
  while (!bytes.empty()) {
    // The library takes an int and a pointer without const; it only reads.
    const std::span<const std::byte> part = bytes.first(std::min<std::size_t>(bytes.size(), INT_MAX / 2));
    crc = ::crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<std::byte*>(part.data())),
                        static_cast<int>(part.size()), crc);
    bytes = bytes.subspan(part.size());
  }
  clean_registers();
  return ~crc;
}

bool is_zero(std::span<const std::byte> bytes) noexcept {
  const bool zero = bytes.empty() || ::isal_zero_detect(const_cast<std::byte*>(bytes.data()), bytes.size()) == 0;
  clean_registers();
  return zero;
}

namespace {

/// The states of an HMAC's two hashes after its key.
struct KeyStates {
  explicit KeyStates(const Secret& key)
      : inner(after_key(key, std::byte{0x36})), outer(after_key(key, std::byte{0x5c})) {}
  KeyStates(const KeyStates&) = delete;
  KeyStates& operator=(const KeyStates&) = delete;
  ~KeyStates() {
    ::OPENSSL_cleanse(&inner, sizeof inner);
    ::OPENSSL_cleanse(&outer, sizeof outer);
  }

  static sha256::State after_key(const Secret& key, std::byte pad) {
    std::array<std::byte, sha256::block_bytes> block;
    block.fill(pad);
    for (std::size_t i = 0; i < Secret::size; ++i)
      block[i] ^= key.bytes()[i];
    const sha256::State state = sha256::after(sha256::initial(), block);
    ::OPENSSL_cleanse(block.data(), block.size());
    return state;
  }

  sha256::State inner;
  sha256::State outer;
};

}  // namespace

struct ChunkHasher::Context {
  CPtr<EVP_MD, EVP_MD_free> algorithm{EVP_MD_fetch(nullptr, "SHA256", nullptr)};
  CPtr<EVP_MD_CTX, EVP_MD_CTX_free> digest{EVP_MD_CTX_new()};
  CPtr<EVP_MAC, EVP_MAC_free> keyed_algorithm;
  CPtr<EVP_MAC_CTX, EVP_MAC_CTX_free> keyed;  ///< null without a key
  std::optional<KeyStates> key_states;        ///< for pairs, where they are hashed beside each other
};

ChunkHasher::ChunkHasher() : context_(std::make_unique<Context>()) {
  if (!context_->algorithm || !context_->digest) throw Error("OpenSSL offers no SHA-256");
}

ChunkHasher::ChunkHasher(const Secret& key) : ChunkHasher() {
  std::string digest = "SHA256";
  const std::array params{OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), 0),
                          OSSL_PARAM_construct_end()};
  context_->keyed_algorithm.reset(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
  if (context_->keyed_algorithm) context_->keyed.reset(EVP_MAC_CTX_new(context_->keyed_algorithm.get()));
  if (!context_->keyed ||
      EVP_MAC_init(context_->keyed.get(), reinterpret_cast<const unsigned char*>(key.bytes().data()),
                   key.bytes().size(), params.data()) != 1)
    throw Error("OpenSSL offers no HMAC-SHA-256");
  if (sha256::available()) context_->key_states.emplace(key);
}

ChunkHasher::ChunkHasher(ChunkHasher&&) noexcept = default;
ChunkHasher& ChunkHasher::operator=(ChunkHasher&&) noexcept = default;
ChunkHasher::~ChunkHasher() = default;

ChunkId ChunkHasher::operator()(std::span<const std::byte> bytes) {
  ChunkId id;
  auto* out = reinterpret_cast<unsigned char*>(id.bytes.data());
  const auto* in = reinterpret_cast<const unsigned char*>(bytes.data());
  if (EVP_MAC_CTX* keyed = context_->keyed.get()) {
    std::size_t length = 0;
    // Without a key: that of the first time.
    if (EVP_MAC_init(keyed, nullptr, 0, nullptr) != 1 || EVP_MAC_update(keyed, in, bytes.size()) != 1 ||
        EVP_MAC_final(keyed, out, &length, id.bytes.size()) != 1)
      throw Error("OpenSSL failed to compute an HMAC");
    return id;
  }
  EVP_MD_CTX* digest = context_->digest.get();
  if (EVP_DigestInit_ex(digest, context_->algorithm.get(), nullptr) != 1 ||
      EVP_DigestUpdate(digest, in, bytes.size()) != 1 || EVP_DigestFinal_ex(digest, out, nullptr) != 1)
    throw Error("OpenSSL failed to compute a SHA-256");
  return id;
}

std::array<ChunkId, 2> ChunkHasher::operator()(std::span<const std::byte> first, std::span<const std::byte> second) {
  if (!sha256::available()) return {(*this)(first), (*this)(second)};
  if (!context_->keyed) return sha256::finish(sha256::initial(), 0, first, second);
  const KeyStates& states = *context_->key_states;
  const std::array<ChunkId, 2> inner = sha256::finish(states.inner, sha256::block_bytes, first, second);
  return sha256::finish(states.outer, sha256::block_bytes, inner[0].bytes, inner[1].bytes);
}

}  // namespace stillpoint
