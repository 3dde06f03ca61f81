// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/key-source.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>

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

std::string ask_terminal(int terminal, std::string_view question) {
  const Unseen unseen(terminal);
  write_all(terminal, as_bytes(question), "the terminal");
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

KeySource find(const std::string& key_file, const char* variable, bool is_new) {
  if (!key_file.empty()) return read_key_file(key_file);
  KeySource source;
  if (const char* passphrase = ::secure_getenv(variable); passphrase != nullptr) {
    source.passphrase = passphrase;
    return source;
  }
  const UniqueFd terminal(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!terminal)
    throw ConfigError(is_new ? "no new key is given" : "the repository is encrypted, and no key is given",
                      fmt::format("use --key-file or the environment variable {}", variable));
  source.passphrase = ask_terminal(terminal.get(), is_new ? "New passphrase: " : "Passphrase: ");
  if (is_new && ask_terminal(terminal.get(), "Once more: ") != source.passphrase)
    throw ConfigError("the two passphrases differ", "nothing was done: try again");
  return source;
}

}  // namespace

bool passphrase_is_given() {
  return ::secure_getenv(passphrase_variable) != nullptr;
}

KeySource find_key(const std::string& key_file) {
  return find(key_file, passphrase_variable, false);
}

KeySource find_new_key(const std::string& key_file, const char* environment_variable) {
  return find(key_file, environment_variable, true);
}

}  // namespace stillpoint
