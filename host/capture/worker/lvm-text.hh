// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// LVM's metadata text, as far as it is needed: sections in each other with values that are numbers, strings, or lists
/// of them.
class LvmSection {
 public:
  /// Bounds of what is taken for metadata at all.
  static constexpr std::size_t most_bytes = std::size_t{16} << 20;
  static constexpr std::size_t most_depth = 16;
  static constexpr std::size_t most_items = 2000000;  ///< sections and values

  /// Throws CaptureError where it is no such text, or is longer, deeper or larger than any.
  [[nodiscard]] static LvmSection parse(std::string_view text);

  /// Nothing when it is missing or of another kind. A list of one is not told from what it holds.
  [[nodiscard]] std::optional<std::uint64_t> number(std::string_view name) const;
  [[nodiscard]] std::optional<std::string> string(std::string_view name) const;
  [[nodiscard]] bool list_has(std::string_view name, std::string_view item) const;

  /// A list's items: numbers in decimal, strings without their quotes; empty when it is missing.
  [[nodiscard]] const std::vector<std::string>& list(std::string_view name) const;

  /// Nullptr when there is none.
  [[nodiscard]] const LvmSection* section(std::string_view name) const;
  [[nodiscard]] const std::map<std::string, LvmSection, std::less<>>& sections() const noexcept { return sections_; }

 private:
  friend class LvmParser;
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::map<std::string, LvmSection, std::less<>> sections_;
};

}  // namespace stillpoint
