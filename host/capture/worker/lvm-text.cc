// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/lvm-text.hh"

#include "common/errors.hh"

#include <algorithm>
#include <charconv>
#include <utility>

namespace stillpoint {
namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("_-+./#").find(c) != std::string_view::npos;
}

}  // namespace

class LvmParser {
 public:
  explicit LvmParser(std::string_view text) : rest_(text) {}

  /// Up to the end of the text, or to the brace that ends a section.
  void items(LvmSection& section, std::size_t depth) {
    for (;;) {
      const char next = peek();
      if (next == '\0' || next == '}') {
        if ((next == '}') != (depth > 0)) refuse();
        return;
      }
      item(section, depth);
    }
  }

 private:
  [[noreturn]] static void refuse() { throw CaptureError("metadata of LVM that is damaged"); }

  void item(LvmSection& section, std::size_t depth) {
    if (++items_ > LvmSection::most_items) refuse();
    const std::string name = word();
    const char next = peek();
    rest_.remove_prefix(next == '\0' ? 0 : 1);
    if (next == '{') {
      if (depth + 1 >= LvmSection::most_depth) refuse();
      LvmSection inner;
      items(inner, depth + 1);
      rest_.remove_prefix(1);
      if (!section.sections_.emplace(name, std::move(inner)).second) refuse();
    } else if (next == '=') {
      if (!section.values_.emplace(name, value()).second) refuse();
    } else {
      refuse();
    }
  }

  std::vector<std::string> value() {
    std::vector<std::string> list;
    if (peek() != '[') {
      list.push_back(scalar());
      return list;
    }
    rest_.remove_prefix(1);
    while (peek() != ']') {
      if (++items_ > LvmSection::most_items) refuse();
      list.push_back(scalar());
      if (peek() == ',')
        rest_.remove_prefix(1);
      else if (peek() != ']')
        refuse();
    }
    rest_.remove_prefix(1);
    return list;
  }

  std::string scalar() {
    if (peek() != '"') return word();
    std::string text;
    std::size_t at = 1;
    for (; at < rest_.size() && rest_[at] != '"'; ++at) {
      if (rest_[at] == '\\' && at + 1 < rest_.size()) ++at;
      text += rest_[at];
    }
    if (at >= rest_.size()) refuse();
    rest_.remove_prefix(at + 1);
    return text;
  }

  std::string word() {
    if (peek() == '\0') refuse();
    const auto length = static_cast<std::size_t>(std::find_if_not(rest_.begin(), rest_.end(), is_word) - rest_.begin());
    if (length == 0) refuse();
    std::string text(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return text;
  }

  /// The next character that counts; NUL at the end.
  char peek() {
    while (!rest_.empty()) {
      const char c = rest_.front();
      if (c == '#')
        rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
      else if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
        rest_.remove_prefix(1);
      else
        return c;
    }
    return '\0';
  }

  std::string_view rest_;
  std::size_t items_ = 0;
};

LvmSection LvmSection::parse(std::string_view text) {
  // What is written ends in a NUL.
  text = text.substr(0, text.find('\0'));
  if (text.size() > most_bytes) throw CaptureError("metadata of LVM that is longer than any");
  LvmSection section;
  LvmParser(text).items(section, 0);
  return section;
}

const std::vector<std::string>& LvmSection::list(std::string_view name) const {
  static const std::vector<std::string> none;
  const auto found = values_.find(name);
  return found == values_.end() ? none : found->second;
}

std::optional<std::uint64_t> LvmSection::number(std::string_view name) const {
  const std::optional<std::string> text = string(name);
  if (!text) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc{} && end == text->data() + text->size() ? std::optional(value) : std::nullopt;
}

std::optional<std::string> LvmSection::string(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() || found->second.size() != 1 ? std::nullopt : std::optional(found->second.front());
}

bool LvmSection::list_has(std::string_view name, std::string_view item) const {
  const std::vector<std::string>& items = list(name);
  return std::find(items.begin(), items.end(), item) != items.end();
}

const LvmSection* LvmSection::section(std::string_view name) const {
  const auto found = sections_.find(name);
  return found == sections_.end() ? nullptr : &found->second;
}

}  // namespace stillpoint
