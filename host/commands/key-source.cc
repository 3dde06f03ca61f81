// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/key-source.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <utility>

namespace stillpoint {

namespace {

constexpr const char* passphrase_variable = "STILLPOINT_PASSPHRASE";
constexpr std::size_t longest_key_file = 1 << 20;
constexpr std::size_t longest_passphrase = 4096;

/// A terminal that shows nothing of what is typed, for as long as this lives.
class Unseen {
 public:
  explicit Unseen(int terminal) : terminal_(terminal), changed_(::tcgetattr(terminal, &before_) == 0) {
    termios silent = before_;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    if (changed_) ::tcsetattr(terminal, TCSAFLUSH, &silent);
  }
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
  ~Unseen() {
    if (changed_) ::tcsetattr(terminal_, TCSAFLUSH, &before_);
  }

 private:
  int terminal_;
  termios before_{};
  bool changed_;
};

/// Signals are blocked: what they ask for is seen in between.
void wait_for_line(int terminal, const std::stop_token& stop) {
  pollfd typed{terminal, POLLIN, 0};
  while (::poll(&typed, 1, 100) <= 0)
    if (stop.stop_requested()) throw Interrupted("stopped while it asked for a passphrase");
}

std::string ask_terminal(int terminal, std::string_view question, const std::stop_token& stop) {
  const Unseen unseen(terminal);
  write_all(terminal, as_bytes(question), "the terminal");
  wait_for_line(terminal, stop);
  std::string line;
  for (char c = 0; ::read(terminal, &c, 1) == 1 && c != '\n' && line.size() < longest_passphrase;)
    line += c;
  write_all(terminal, as_bytes("\n"), "the terminal");
  return line;
}

KeySource read_key_file(const std::string& path) {
  KeySource source;
  try {
    source.key_file = read_text(path, longest_key_file);
  } catch (const Error& e) {
    throw ConfigError(fmt::format("the key file: {}", e.what()));
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0)
    log_warning("the key file {} can be read by others than its owner", path);
  if (source.key_file.empty()) throw ConfigError(fmt::format("the key file {} is empty", path));
  return source;
}

/// Out of the environment, too: programs that are started inherit that.
std::optional<std::string> take_variable(const std::string& variable) {
  static std::map<std::string, KeySource> taken;  // which wipe what they hold
  if (const char* value = ::secure_getenv(variable.c_str()); value != nullptr) {
    taken[variable].passphrase = value;
    ::unsetenv(variable.c_str());
  }
  const auto found = taken.find(variable);
  return found == taken.end() ? std::nullopt : std::optional(found->second.passphrase);
}

KeySource find(const std::string& key_file, const char* variable, bool is_new, const std::stop_token& stop) {
  if (!key_file.empty()) return read_key_file(key_file);
  KeySource source;
  if (std::optional<std::string> passphrase = take_variable(variable)) {
    source.passphrase = std::move(*passphrase);
    return source;
  }
  const UniqueFd terminal(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!terminal)
    throw ConfigError(is_new ? "no new key is given" : "the repository is encrypted, and no key is given",
                      fmt::format("use --key-file or the environment variable {}", variable));
  source.passphrase = ask_terminal(terminal.get(), is_new ? "New passphrase: " : "Passphrase: ", stop);
  if (is_new && ask_terminal(terminal.get(), "Once more: ", stop) != source.passphrase)
    throw ConfigError("the two passphrases differ", "nothing was done: try again");
  return source;
}

}  // namespace

bool passphrase_is_given() {
  return take_variable(passphrase_variable).has_value();
}

KeySource find_key(const std::string& key_file, const std::stop_token& stop) {
  return find(key_file, passphrase_variable, false, stop);
}

KeySource find_new_key(const std::string& key_file, const char* environment_variable, const std::stop_token& stop) {
  return find(key_file, environment_variable, true, stop);
}

}  // namespace stillpoint
