// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"

#include <bitset>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// One pattern with the meaning that rsync(1) gives it under "PATTERN MATCHING RULES".
class TreePattern {
 public:
  /// Any text is a pattern; one that can match nothing matches nothing.
  explicit TreePattern(std::string_view text);

  /// `path`: relative to what patterns with a leading slash are anchored at, without one of its own.
  [[nodiscard]] bool matches(std::string_view path, bool is_directory) const;

 private:
  struct Token {
    enum class Kind { byte, set, name_run, path_run } kind;
    char byte = 0;              ///< of a byte
    std::bitset<256> set = {};  ///< of a set; the runs take none or many: without or with slashes
  };
  void compile(std::string_view text);
  bool compile_set(std::string_view& text);
  [[nodiscard]] bool matches_text(std::string_view text) const;
  [[nodiscard]] bool matches_somewhere(std::string_view text) const;

  std::vector<Token> tokens_;
  bool impossible_ = false;  ///< a set without an end
  bool anchored_ = false;
  bool directories_only_ = false;
  bool whole_path_ = false;       ///< else the last name alone counts
  bool crosses_slashes_ = false;  ///< has "**"
  bool leads_with_run_ = false;   ///< begins with "**"
  bool takes_directory_ = false;  ///< ends in "***": "a/***" is "a/" and all below it
  std::size_t slashes_ = 0;       ///< that it has, the leading one left out
};

/// What a tree leaves out: rules in order, of which the first that matches decides. What none matches is wanted, and
/// what lies in a directory that is not wanted is not either.
class TreeFilter {
 public:
  /// As rsync's options of these names: "+ " or "- " before a pattern says what it does whatever the option, "!" alone
  /// forgets all rules so far, nothing is no rule.
  void include(std::string_view rule) { add(rule, true); }
  void exclude(std::string_view rule) { add(rule, false); }
  /// A rule in each line; empty ones and those that begin with '#' or ';' are left out. Throws UsageError.
  void exclude_from(const std::filesystem::path& file);

  [[nodiscard]] bool empty() const noexcept { return rules_.empty(); }
  /// By itself: a caller looks at the directories above first.
  [[nodiscard]] bool wants(std::string_view path, bool is_directory) const;
  /// Of a directory: with all those above it.
  [[nodiscard]] bool wants_directories(std::string_view path) const;

 private:
  struct Rule {
    TreePattern pattern;
    bool include;
  };
  void add(std::string_view rule, bool include);

  std::vector<Rule> rules_;
};

/// Passes on what a filter wants of a walk. What the walk begins with is always wanted where it is a directory.
class FilteredSink : public TreeSink {
 public:
  /// `place`: where the walk's start lies below what patterns are anchored at ("var" for a file system on /var).
  FilteredSink(TreeSink& sink, const TreeFilter& filter, std::string place = {})
      : sink_(sink), filter_(filter), place_(std::move(place)) {}

  void entry(const TreeEntry& entry) override;

 private:
  [[nodiscard]] bool wants(const TreeEntry& entry);

  TreeSink& sink_;
  const TreeFilter& filter_;
  std::string place_;
  bool started_ = false;
  std::size_t start_length_ = 0;  ///< of the start's path with the slash after it
  std::string left_out_;          ///< a directory's path, with a slash at the end
  std::string path_;
};

}  // namespace stillpoint
