// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/cipher.hh"

#include "common/deleter.hh"
#include "common/errors.hh"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <algorithm>
#include <climits>
#include <string>
#include <vector>

namespace stillpoint {

namespace {

const unsigned char* raw(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

unsigned char* raw(std::span<std::byte> bytes) {
  return reinterpret_cast<unsigned char*>(bytes.data());
}

int length(std::size_t size) {
  if (size > INT_MAX) throw Error("too much to encrypt at once");
  return static_cast<int>(size);
}

[[noreturn]] void fail(std::string_view what) {
  throw Error(std::string("OpenSSL cannot ") + std::string(what));
}

Secret derive(const char* algorithm, std::vector<OSSL_PARAM> params) {
  const CPtr<EVP_KDF, EVP_KDF_free> kdf(EVP_KDF_fetch(nullptr, algorithm, nullptr));
  const CPtr<EVP_KDF_CTX, EVP_KDF_CTX_free> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  params.push_back(OSSL_PARAM_construct_end());
  Secret secret;
  if (!context ||
      EVP_KDF_derive(context.get(), raw(std::span<std::byte>(secret.writable())), Secret::size, params.data()) != 1)
    fail("derive a key");
  return secret;
}

OSSL_PARAM octets(const char* name, std::span<const std::byte> bytes) {
  // The library takes a pointer without const; it only reads.
  return OSSL_PARAM_construct_octet_string(name, const_cast<std::byte*>(bytes.data()), bytes.size());
}

}  // namespace

Secret::~Secret() {
  OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

void fill_random(std::span<std::byte> bytes) {
  if (RAND_bytes(raw(bytes), length(bytes.size())) != 1) fail("make random bytes");
}

Secret random_secret() {
  Secret secret;
  if (RAND_priv_bytes(raw(std::span<std::byte>(secret.writable())), Secret::size) != 1) fail("make random bytes");
  return secret;
}

Secret derive_secret(std::span<const std::byte> from, std::span<const std::byte> salt, std::string_view purpose) {
  std::string digest = "SHA256";
  return derive("HKDF", {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
                         octets(OSSL_KDF_PARAM_KEY, from), octets(OSSL_KDF_PARAM_SALT, salt),
                         octets(OSSL_KDF_PARAM_INFO, std::as_bytes(std::span(purpose)))});
}

Secret derive_from_passphrase(std::string_view passphrase, std::span<const std::byte> salt, const ScryptCost& cost) {
  std::uint64_t n = cost.n;
  std::uint32_t r = cost.r;
  std::uint32_t p = cost.p;
  std::uint64_t memory = 128 * n * r + (std::uint64_t{32} << 20);
  return derive("SCRYPT", {octets(OSSL_KDF_PARAM_PASSWORD, std::as_bytes(std::span(passphrase))),
                           octets(OSSL_KDF_PARAM_SALT, salt), OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n),
                           OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_R, &r),
                           OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_P, &p),
                           OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_MAXMEM, &memory)});
}

struct Cipher::Context {
  CPtr<EVP_CIPHER, EVP_CIPHER_free> algorithm{EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr)};
  CPtr<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free> sealing{EVP_CIPHER_CTX_new()};
  CPtr<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free> opening{EVP_CIPHER_CTX_new()};
};

Cipher::Cipher(const Secret& key) : context_(std::make_unique<Context>()) {
  const Context& c = *context_;
  if (!c.algorithm || !c.sealing || !c.opening ||
      EVP_EncryptInit_ex2(c.sealing.get(), c.algorithm.get(), raw(key.bytes()), nullptr, nullptr) != 1 ||
      EVP_DecryptInit_ex2(c.opening.get(), c.algorithm.get(), raw(key.bytes()), nullptr, nullptr) != 1)
    fail("use AES-256-GCM");
}
Cipher::Cipher(Cipher&&) noexcept = default;
Cipher& Cipher::operator=(Cipher&&) noexcept = default;
Cipher::~Cipher() = default;

void Cipher::seal(std::span<const std::byte, cipher_nonce_bytes> nonce, std::span<const std::byte> bound,
                  std::span<const std::byte> plain, std::span<std::byte> sealed) {
  EVP_CIPHER_CTX* context = context_->sealing.get();
  int done = 0;
  int rest = 0;
  std::byte* tag = sealed.data() + plain.size();
  if (sealed.size() != plain.size() + cipher_tag_bytes ||
      EVP_EncryptInit_ex2(context, nullptr, nullptr, raw(nonce), nullptr) != 1 ||
      EVP_EncryptUpdate(context, nullptr, &done, raw(bound), length(bound.size())) != 1 ||
      EVP_EncryptUpdate(context, raw(sealed), &done, raw(plain), length(plain.size())) != 1 ||
      EVP_EncryptFinal_ex(context, raw(sealed) + done, &rest) != 1 ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, cipher_tag_bytes, tag) != 1)
    fail("encrypt");
}

bool Cipher::open(std::span<const std::byte, cipher_nonce_bytes> nonce, std::span<const std::byte> bound,
                  std::span<const std::byte> sealed, std::span<std::byte> plain) {
  if (sealed.size() < cipher_tag_bytes || plain.size() != sealed.size() - cipher_tag_bytes) return false;
  EVP_CIPHER_CTX* context = context_->opening.get();
  int done = 0;
  int rest = 0;
  std::array<std::byte, cipher_tag_bytes> tag;
  std::copy_n(sealed.end() - cipher_tag_bytes, cipher_tag_bytes, tag.begin());
  return EVP_DecryptInit_ex2(context, nullptr, nullptr, raw(nonce), nullptr) == 1 &&
         EVP_DecryptUpdate(context, nullptr, &done, raw(bound), length(bound.size())) == 1 &&
         EVP_DecryptUpdate(context, raw(plain), &done, raw(sealed), length(plain.size())) == 1 &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, cipher_tag_bytes, tag.data()) == 1 &&
         EVP_DecryptFinal_ex(context, raw(plain) + done, &rest) == 1;
}

}  // namespace stillpoint
