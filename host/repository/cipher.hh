// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

namespace stillpoint {

/// 32 secret bytes; wiped when they go.
class Secret {
 public:
  static constexpr std::size_t size = 32;
  Secret() = default;
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret();

  [[nodiscard]] std::span<const std::byte, size> bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::span<std::byte, size> writable() noexcept { return bytes_; }

 private:
  std::array<std::byte, size> bytes_{};
};

/// From the system's random source. Throws Error.
void fill_random(std::span<std::byte> bytes);
[[nodiscard]] Secret random_secret();

/// HKDF-SHA-256: another secret for each purpose and salt, none of which tells about the others.
[[nodiscard]] Secret derive_secret(std::span<const std::byte> from, std::span<const std::byte> salt,
                                   std::string_view purpose);

/// scrypt (RFC 7914): costs whoever guesses 128 * n * r bytes of memory for each guess.
struct ScryptCost {
  std::uint64_t n = 1 << 17;
  std::uint32_t r = 8;
  std::uint32_t p = 1;
};
[[nodiscard]] Secret derive_from_passphrase(std::string_view passphrase, std::span<const std::byte> salt,
                                            const ScryptCost& cost);

inline constexpr std::size_t cipher_nonce_bytes = 12;
inline constexpr std::size_t cipher_tag_bytes = 16;

/// AES-256-GCM under one key. One for each thread. A nonce must never be used twice under one key.
class Cipher {
 public:
  explicit Cipher(const Secret& key);
  Cipher(Cipher&&) noexcept;
  Cipher& operator=(Cipher&&) noexcept;
  ~Cipher();

  /// `sealed`: of plain.size() + cipher_tag_bytes. `bound` is not encrypted, but cannot be changed either.
  void seal(std::span<const std::byte, cipher_nonce_bytes> nonce, std::span<const std::byte> bound,
            std::span<const std::byte> plain, std::span<std::byte> sealed);
  /// `plain`: of sealed.size() - cipher_tag_bytes. False when anything is not as it was sealed.
  [[nodiscard]] bool open(std::span<const std::byte, cipher_nonce_bytes> nonce, std::span<const std::byte> bound,
                          std::span<const std::byte> sealed, std::span<std::byte> plain);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace stillpoint
