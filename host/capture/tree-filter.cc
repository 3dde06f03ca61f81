// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-filter.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::size_t longest_file = 16 << 20;

unsigned char code(char c) {
  return static_cast<unsigned char>(c);
}

/// The bytes of "[:NAME:]" in the C locale; false for a name that is none.
bool add_class(std::string_view name, std::bitset<256>& set) {
  static constexpr std::pair<std::string_view, int (*)(int)> classes[] = {
      {"alnum", std::isalnum}, {"alpha", std::isalpha}, {"blank", std::isblank}, {"cntrl", std::iscntrl},
      {"digit", std::isdigit}, {"graph", std::isgraph}, {"lower", std::islower}, {"print", std::isprint},
      {"punct", std::ispunct}, {"space", std::isspace}, {"upper", std::isupper}, {"xdigit", std::isxdigit}};
  const auto* const found =
      std::find_if(std::begin(classes), std::end(classes), [name](const auto& one) { return one.first == name; });
  if (found == std::end(classes)) return false;
  for (int c = 0; c < 128; ++c)
    if (found->second(c) != 0) set.set(static_cast<std::size_t>(c));
  return true;
}

}  // namespace

TreePattern::TreePattern(std::string_view text) {
  if (text.size() > 1 && text.ends_with('/')) {
    directories_only_ = true;
    text.remove_suffix(1);
  }
  crosses_slashes_ = text.find("**") != std::string_view::npos;
  leads_with_run_ = text.starts_with("**");
  takes_directory_ = text.ends_with("***");
  whole_path_ = crosses_slashes_ || text.find('/') != std::string_view::npos;
  if (text.starts_with('/')) {
    anchored_ = true;
    text.remove_prefix(1);
  }
  slashes_ = static_cast<std::size_t>(std::count(text.begin(), text.end(), '/'));
  if (text.find_first_of("*?[") != std::string_view::npos) {
    compile(text);
  } else {
    // Without a wildcard a backslash is one.
    for (const char c : text)
      tokens_.push_back({Token::Kind::byte, c});
  }
}

void TreePattern::compile(std::string_view text) {
  while (!text.empty() && !impossible_) {
    const char c = text.front();
    if (c == '*') {
      const std::size_t stars = std::min(text.find_first_not_of('*'), text.size());
      tokens_.push_back({stars > 1 ? Token::Kind::path_run : Token::Kind::name_run});
      text.remove_prefix(stars);
      continue;
    }
    text.remove_prefix(1);
    if (c == '[') {
      impossible_ = !compile_set(text);
    } else if (c == '?') {
      tokens_.push_back({Token::Kind::set, 0, std::bitset<256>().set().reset('/')});
    } else if (c == '\\') {
      impossible_ = text.empty();
      if (impossible_) break;
      tokens_.push_back({Token::Kind::byte, text.front()});
      text.remove_prefix(1);
    } else {
      tokens_.push_back({Token::Kind::byte, c});
    }
  }
}

/// Of what follows a '['; takes the ']' too. False where there is none.
bool TreePattern::compile_set(std::string_view& text) {
  std::bitset<256> set;
  const bool inverted = text.starts_with('!') || text.starts_with('^');
  if (inverted) text.remove_prefix(1);
  const auto take = [&text](char& c) {
    if (text.empty()) return false;
    c = text.front();
    text.remove_prefix(1);
    return true;
  };
  int previous = -1;  // what a range may begin with
  char c = 0;
  for (bool first = true; take(c); first = false) {
    if (c == ']' && !first) {
      tokens_.push_back({Token::Kind::set, 0, (inverted ? ~set : set).reset('/')});
      return true;
    }
    if (c == '-' && previous >= 0 && !text.empty() && text.front() != ']') {
      char last = 0;
      if (!take(last) || (last == '\\' && !take(last))) return false;
      for (int i = previous; i <= code(last); ++i)
        set.set(static_cast<std::size_t>(i));
      previous = -1;
    } else if (c == '[' && text.starts_with(':')) {
      const std::size_t end = text.find(":]", 1);
      const std::size_t bracket = text.find(']', 1);
      if (end == std::string_view::npos || bracket != end + 1) {
        // No class after all: a '[', and what follows it.
        if (bracket == std::string_view::npos) return false;
        set.set('[');
        previous = '[';
        continue;
      }
      if (!add_class(text.substr(1, end - 1), set)) return false;
      text.remove_prefix(end + 2);
      previous = -1;
    } else {
      if (c == '\\' && !take(c)) return false;
      set.set(code(c));
      previous = code(c);
    }
  }
  return false;
}

/// All places in the pattern that the bytes so far may have led to, byte after byte: no pattern makes it slow.
bool TreePattern::matches_text(std::string_view text) const {
  const std::size_t end = tokens_.size();
  const auto is_run = [this](std::size_t at) {
    return tokens_[at].kind == Token::Kind::name_run || tokens_[at].kind == Token::Kind::path_run;
  };
  std::vector<bool> at(end + 1);
  std::vector<bool> next(end + 1);
  const auto enter = [&](std::vector<bool>& places, std::size_t place) {
    // A run may be empty.
    for (places[place] = true; place < end && is_run(place); places[++place] = true) {
    }
  };
  enter(at, 0);
  for (const char c : text) {
    next.assign(end + 1, false);
    bool any = false;
    for (std::size_t place = 0; place < end; ++place) {
      if (!at[place]) continue;
      const Token& token = tokens_[place];
      bool stays = false;
      bool goes_on = false;
      switch (token.kind) {
        case Token::Kind::byte:
          goes_on = token.byte == c;
          break;
        case Token::Kind::set:
          goes_on = token.set[code(c)];
          break;
        case Token::Kind::name_run:
          stays = c != '/';
          break;
        case Token::Kind::path_run:
          stays = true;
          break;
      }
      if (stays) enter(next, place);
      if (goes_on) enter(next, place + 1);
      any = any || stays || goes_on;
    }
    if (!any) return false;
    at.swap(next);
  }
  return at[end];
}

bool TreePattern::matches_somewhere(std::string_view text) const {
  if (anchored_ || leads_with_run_ || slashes_ == 0) {
    if (anchored_ || leads_with_run_ || !crosses_slashes_) return matches_text(text);
  }
  if (!crosses_slashes_) {
    // As many names at the end as the pattern has.
    std::size_t at = text.size();
    for (std::size_t names = 0; names <= slashes_; ++names) {
      if (at == std::string_view::npos || at == 0) return false;
      at = text.rfind('/', at - 1);
    }
    return matches_text(at == std::string_view::npos ? text : text.substr(at + 1));
  }
  for (;;) {
    if (matches_text(text)) return true;
    const std::size_t slash = text.find('/');
    if (slash == std::string_view::npos) return false;
    text.remove_prefix(slash + 1);
  }
}

bool TreePattern::matches(std::string_view path, bool is_directory) const {
  if (impossible_ || path.empty() || (directories_only_ && !is_directory)) return false;
  if (!whole_path_) return matches_text(path.substr(path.rfind('/') + 1));
  // A leading "**/" matches nothing too, a trailing "/***" its directory.
  const bool adds_slash = is_directory && takes_directory_;
  if (!leads_with_run_ && !adds_slash) return matches_somewhere(path);
  return matches_somewhere(fmt::format("{}{}{}", leads_with_run_ ? "/" : "", path, adds_slash ? "/" : ""));
}

void TreeFilter::add(std::string_view rule, bool include) {
  if (rule == "!") return rules_.clear();
  if (rule.starts_with("+ ") || rule.starts_with("- ")) {
    include = rule.front() == '+';
    rule.remove_prefix(2);
  }
  if (!rule.empty()) rules_.push_back({TreePattern(rule), include});
}

void TreeFilter::exclude_from(const std::filesystem::path& file) {
  std::string text;
  try {
    text = read_text(file, longest_file);
  } catch (const Error& error) {
    throw UsageError(error.what(), "name a file with a pattern in each line");
  }
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.starts_with('#') && !line.starts_with(';')) exclude(line);
  }
}

bool TreeFilter::wants(std::string_view path, bool is_directory) const {
  const auto rule = std::find_if(rules_.begin(), rules_.end(),
                                 [&](const Rule& one) { return one.pattern.matches(path, is_directory); });
  return rule == rules_.end() || rule->include;
}

bool TreeFilter::wants_directories(std::string_view path) const {
  for (std::size_t at = 0; at < path.size();) {
    at = std::min(path.find('/', at + 1), path.size());
    if (!wants(path.substr(0, at), true)) return false;
  }
  return true;
}

bool FilteredSink::wants(const TreeEntry& entry) {
  const bool is_directory = entry.type == EntryType::directory;
  const std::string_view whole = entry.path;
  if (!started_) {
    started_ = true;
    if (is_directory) {
      start_length_ = whole.empty() ? 0 : whole.size() + 1;
      return true;
    }
    start_length_ = whole.rfind('/') + 1;
  }
  if (!left_out_.empty() && whole.starts_with(left_out_)) return false;
  path_ = place_;
  if (!path_.empty()) path_ += '/';
  path_ += whole.substr(std::min(start_length_, whole.size()));
  if (filter_.wants(path_, is_directory)) return true;
  if (is_directory) left_out_ = entry.path + "/";
  return false;
}

void FilteredSink::entry(const TreeEntry& entry) {
  if (wants(entry)) sink_.entry(entry);
}

}  // namespace stillpoint
