// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/checksum.hh"

#include "common/deleter.hh"
#include "common/errors.hh"

#include <isa-l/crc.h>
#include <isa-l/mem_routines.h>
#include <openssl/evp.h>

#include <algorithm>
#include <climits>

namespace stillpoint {

std::uint32_t crc32c(std::span<const std::byte> bytes) noexcept {
  std::uint32_t crc = 0xffffffff;
  while (!bytes.empty()) {
    // The library takes an int and a pointer without const; it only reads.
    const std::span<const std::byte> part = bytes.first(std::min<std::size_t>(bytes.size(), INT_MAX / 2));
    crc = ::crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<std::byte*>(part.data())),
                        static_cast<int>(part.size()), crc);
    bytes = bytes.subspan(part.size());
  }
  return ~crc;
}

bool is_zero(std::span<const std::byte> bytes) noexcept {
  return bytes.empty() || ::isal_zero_detect(const_cast<std::byte*>(bytes.data()), bytes.size()) == 0;
}

struct ChunkHasher::Context {
  CPtr<EVP_MD, EVP_MD_free> algorithm{EVP_MD_fetch(nullptr, "SHA256", nullptr)};
  CPtr<EVP_MD_CTX, EVP_MD_CTX_free> digest{EVP_MD_CTX_new()};
};

ChunkHasher::ChunkHasher() : context_(std::make_unique<Context>()) {
  if (!context_->algorithm || !context_->digest) throw Error("OpenSSL offers no SHA-256");
}
ChunkHasher::ChunkHasher(ChunkHasher&&) noexcept = default;
ChunkHasher& ChunkHasher::operator=(ChunkHasher&&) noexcept = default;
ChunkHasher::~ChunkHasher() = default;

ChunkId ChunkHasher::operator()(std::span<const std::byte> bytes) {
  ChunkId id;
  EVP_MD_CTX* digest = context_->digest.get();
  if (EVP_DigestInit_ex(digest, context_->algorithm.get(), nullptr) != 1 ||
      EVP_DigestUpdate(digest, bytes.data(), bytes.size()) != 1 ||
      EVP_DigestFinal_ex(digest, reinterpret_cast<unsigned char*>(id.bytes.data()), nullptr) != 1)
    throw Error("OpenSSL failed to compute a SHA-256");
  return id;
}

}  // namespace stillpoint
