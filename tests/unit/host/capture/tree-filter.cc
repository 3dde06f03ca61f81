// SPDX-License-Identifier: LGPL-2.1-or-later
// Include and exclude patterns beside rsync itself. STILLPOINT_TEST_ROUNDS=N takes N sets of random rules (40).
#include "host/capture/tree-filter.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <cstdlib>
#include <map>
#include <random>
#include <set>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

/// A command line's option and its value.
struct Rule {
  bool include;
  std::string text;
};
using Rules = std::vector<Rule>;

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text)
    result += c == '\'' ? "'\\''" : std::string(1, c);
  return result + "'";
}

std::string words(const Rules& rules) {
  std::string text;
  for (const Rule& rule : rules)
    text += (rule.include ? " --include=" : " --exclude=") + quoted(rule.text);
  return text;
}

TreeFilter filter_of(const Rules& rules) {
  TreeFilter filter;
  for (const Rule& rule : rules)
    rule.include ? filter.include(rule.text) : filter.exclude(rule.text);
  return filter;
}

struct Names : TreeSink {
  void entry(const TreeEntry& entry) override {
    if (!entry.path.empty()) names.insert(entry.path + (entry.type == EntryType::directory ? "/" : ""));
  }
  std::set<std::string> names;
};

void walk(const std::filesystem::path& directory, const std::string& below, TreeSink& sink) {
  TreeEntry entry;
  entry.path = below;
  entry.type = EntryType::directory;
  sink.entry(entry);
  for (const auto& child : std::filesystem::directory_iterator(directory)) {
    entry.path = (below.empty() ? "" : below + "/") + child.path().filename().native();
    if (child.is_directory()) {
      walk(child.path(), entry.path, sink);
    } else {
      entry.type = EntryType::file;
      sink.entry(entry);
    }
  }
}

std::set<std::string> ours(const std::filesystem::path& source, const Rules& rules) {
  const TreeFilter filter = filter_of(rules);
  Names names;
  FilteredSink sink(names, filter);
  walk(source, "", sink);
  return names.names;
}

/// Names with a wildcard, a bracket or a backslash in them, three levels of them.
void make_source(const Scratch& scratch) {
  scratch.run(R"(mkdir src; cd src
for a in a b ab 'a*' d; do mkdir "$a"; touch "$a"/{a,b,ab,c,x.o,'[a]','a\b','-',']','^','!','a b'}
for b in a b dd; do mkdir "$a/$b.d"; touch "$a/$b.d"/{a,b,ab,c,x.o,A}; mkdir "$a/$b.d/a.d"; touch "$a/$b.d/a.d"/{a,c}; done; done
touch top x.o c)");
}

/// What rsync takes of ./src by each set of rules.
std::vector<std::set<std::string>> theirs(const Scratch& scratch, const std::vector<Rules>& sets) {
  std::string script = "mkdir -p none; rm -f names.*\n";
  for (std::size_t i = 0; i < sets.size(); ++i)
    script += fmt::format("rsync -rn8 --out-format=%n {} src/ none/ >names.{}\n", words(sets[i]), i);
  scratch.run(script);
  std::vector<std::set<std::string>> result;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    std::set<std::string>& names = result.emplace_back();
    const std::string text = read_text(scratch / fmt::format("names.{}", i), 1 << 20);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      const std::string name = text.substr(at, end - at);
      if (name != "./") names.insert(name);
      at = end + 1;
    }
  }
  return result;
}

void check(const Scratch& scratch, const std::vector<Rules>& sets) {
  const std::vector<std::set<std::string>> wanted = theirs(scratch, sets);
  std::size_t chosen = 0;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const std::set<std::string> found = ours(scratch / "src", sets[i]);
    INFO(words(sets[i]));
    for (const std::string& name : found)
      if (!wanted[i].contains(name)) FAIL_CHECK("rsync leaves out " << name);
    for (const std::string& name : wanted[i])
      if (!found.contains(name)) FAIL_CHECK("rsync takes " << name);
    if (!found.empty()) ++chosen;
  }
  // Rules that leave out all prove little.
  CHECK(chosen * 2 > sets.size());
}

std::string random_pattern(std::mt19937& random) {
  static constexpr const char* parts[] = {
      "a",       "b",    "ab",    "c",     "d",    ".d",           "*",  "*",   "**",  "***",         "?",  "/", "/",
      "[ab]",    "[!a]", "[^a]",  "[a-c]", "[]-]", "\\*",          "\\", "x.o", "*.o", "[[:alpha:]]", "[a", "]", "-",
      "[[:x:]]", "a.d",  "[\\]]", "[!-/]", "dd",   "[[:upper:]a]", "/*", "**/", "/**", "a b"};
  std::string pattern;
  if (random() % 4 == 0) pattern += "/";
  for (std::size_t count = 1 + random() % 4; count > 0; --count)
    pattern += parts[random() % std::size(parts)];
  if (random() % 5 == 0) pattern += "/";
  if (random() % 12 == 0) pattern.insert(0, random() % 2 == 0 ? "+ " : "- ");
  return pattern;
}

}  // namespace

TEST_CASE("patterns mean what they mean to rsync") {
  const Scratch scratch;
  make_source(scratch);
  const std::vector<Rules> sets = {
      {{false, "a"}},
      {{false, "/a"}},
      {{false, "a/"}},
      {{false, "a.d/a"}},
      {{false, "/a/a.d/a"}},
      {{false, "*.o"}},
      {{false, "/*.o"}},
      {{false, "/*/*.d/"}},
      {{false, "a/**"}},
      {{false, "a/***"}},
      {{false, "**/a"}},
      {{false, "/**/a"}},
      {{false, "a**c"}},
      {{false, "*/a"}},
      {{false, "?"}},
      {{false, "[[:upper:]]"}},
      {{false, "[!a-c]"}},
      {{false, "a\\b"}},
      {{false, "a\\*"}},
      {{false, "a*"}},
      {{false, "[a]"}},
      {{false, "\\[a]"}},
      {{false, "\\[a\\]*"}},
      {{false, "["}},
      {{false, ""}},
      {{false, "/"}},
      {{false, "//"}},
      {{false, "a/b//"}},
      {{true, "a.d/"}, {false, "*.d/"}},
      {{true, "*/"}, {true, "c"}, {false, "*"}},
      {{true, "/a/***"}, {false, "*"}},
      {{false, "c"}, {true, "c"}},
      {{false, "- c"}, {false, "+ a"}, {false, "[ab]"}},
      {{true, "- c"}},
      {{false, "a"}, {false, "!"}, {false, "b"}},
  };
  check(scratch, sets);
}

TEST_CASE("random rules choose what rsync chooses by them") {
  const Scratch scratch;
  make_source(scratch);
  const char* rounds = std::getenv("STILLPOINT_TEST_ROUNDS");
  std::size_t left = rounds != nullptr ? std::strtoul(rounds, nullptr, 10) : 40;
  std::mt19937 random(rounds != nullptr ? std::random_device()() : 20240607);
  for (; left > 0; left -= std::min<std::size_t>(left, 100)) {
    std::vector<Rules> sets(std::min<std::size_t>(left, 100));
    for (Rules& rules : sets)
      for (std::size_t count = 1 + random() % 4; count > 0; --count)
        rules.push_back({random() % 3 == 0, random_pattern(random)});
    check(scratch, sets);
  }
}

TEST_CASE("a file of patterns has one in each line") {
  const Scratch scratch;
  make_source(scratch);
  scratch.run(
      "printf '# of programs\\n*.o\\n\\n; and\\r+ c\\r\\n[ab]\\n/d/' >rules; mkdir none; "
      "rsync -rn8 --out-format=%n --exclude-from=rules src/ none/ | sed '/^\\.\\/$/d' | sort >theirs");
  TreeFilter filter;
  filter.exclude_from(scratch / "rules");
  Names names;
  FilteredSink sink(names, filter);
  walk(scratch / "src", "", sink);
  std::string found;
  for (const std::string& name : names.names)
    found += name + "\n";
  std::ofstream(scratch / "ours") << found;
  scratch.run("LC_ALL=C sort theirs >sorted; cmp sorted ours && [ $(wc -l <ours) -gt 50 ]");
  CHECK_THROWS_AS(filter.exclude_from(scratch / "missing"), UsageError);
}

TEST_CASE("a slow pattern is not") {
  std::string pattern;
  for (int i = 0; i < 40; ++i)
    pattern += "*a**";
  CHECK_FALSE(TreePattern(pattern + "b").matches(std::string(4000, 'a'), false));
}

TEST_CASE("a file system's files are at the guest's paths to a filter") {
  TreeFilter filter;
  filter.exclude("/var/cache/");
  filter.exclude("/srv");
  Names names;
  FilteredSink sink(names, filter, "var");
  for (const auto& [path, type] : std::map<std::string, EntryType>{{"", EntryType::directory},
                                                                   {"cache", EntryType::directory},
                                                                   {"cache/x", EntryType::file},
                                                                   {"log", EntryType::directory},
                                                                   {"log/cache", EntryType::file}}) {
    TreeEntry entry;
    entry.path = path;
    entry.type = type;
    sink.entry(entry);
  }
  CHECK(names.names == std::set<std::string>{"log/", "log/cache"});
  CHECK(filter.wants_directories("var"));
  CHECK(filter.wants_directories(""));
  CHECK_FALSE(filter.wants_directories("srv"));
  CHECK_FALSE(filter.wants_directories("srv/data"));
}
