// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command-line.hh"

#include "common/log.hh"
#include "config.hh"
#include "host/commands/error-output.hh"
#include "host/commands/interrupt.hh"
#include "host/commands/key-source.hh"
#include "host/commands/output.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

struct GlobalOptions {
  std::string repository;
  std::string connect;
  std::string config;
  std::string key_file;
  bool json = false;
  bool quiet = false;
  bool no_progress = false;
  bool debug = false;
};

void add_global_options(CLI::App& parser, GlobalOptions& options) {
  const char* group = "Options of every verb";
  parser.set_help_flag("-h,--help", "print this help, or that of the verb")->group(group);
  parser.set_version_flag("--version", std::string("stillpoint ") + STILLPOINT_VERSION, "print the version")
      ->group(group);
  parser.add_option("-r,--repository", options.repository, "where still points are kept")
      ->type_name("URL")
      ->envname("STILLPOINT_REPOSITORY")
      ->group(group);
  parser.add_option("--key-file", options.key_file, "the key of an encrypted repository")
      ->type_name("FILE")
      ->envname("STILLPOINT_KEY_FILE")
      ->group(group);
  // The environment variable of the URI is libvirt's own business.
  parser.add_option("-c,--connect", options.connect, "libvirt's URI")->type_name("URI")->group(group);
  parser
      .add_option("--config", options.config,
                  "the configuration file, instead of " STILLPOINT_SYSCONF "/stillpoint.conf")
      ->type_name("FILE")
      ->group(group);
  parser.add_flag("--json", options.json, "print results, and errors, as one JSON document")->group(group);
  parser.add_flag("-q,--quiet", options.quiet, "log warnings and errors only")->group(group);
  parser.add_flag("--no-progress", options.no_progress, "draw no progress on the terminal")->group(group);
  parser.add_flag("-v,--debug", options.debug, "log what is done in detail")->group(group);
}

/// CLI11's words for a wrong command line, and where to read the right ones.
[[noreturn]] void throw_usage(const CLI::ParseError& error, const CLI::App& parser, const CLI::App* verb) {
  const std::string hint = fmt::format("run 'stillpoint {}--help'", verb ? verb->get_name() + " " : std::string());
  const std::vector<std::string> remaining = parser.remaining();
  if (verb == nullptr && !remaining.empty() && !remaining.front().starts_with('-'))
    throw UsageError(fmt::format("there is no verb '{}'", remaining.front()), hint);
  std::string message = error.what();
  std::replace(message.begin(), message.end(), '\n', ' ');
  if (message == "A subcommand is required") message = "a verb is missing";
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
    if (const std::vector<std::string> extra = parser.remaining(true); !extra.empty())
      message = fmt::format("'{}' is not expected here", extra.front());
  throw UsageError(message, hint);
}

Invocation invocation_of(const GlobalOptions& options, const std::stop_token& stop) {
  Invocation invocation;
  const std::string config = options.config.empty() ? STILLPOINT_SYSCONF "/stillpoint.conf" : options.config;
  invocation.config = read_host_config(config, !options.config.empty());
  invocation.repository_url = options.repository.empty() ? invocation.config.repository_url : options.repository;
  invocation.key_file = options.key_file;
  // That of the file is for the file's repository, and comes after what this call says.
  const bool of_the_file = options.repository.empty() || options.repository == invocation.config.repository_url;
  if (invocation.key_file.empty() && of_the_file && !passphrase_is_given())
    invocation.key_file = invocation.config.key_file;
  invocation.key_is_meant = !invocation.key_file.empty() || passphrase_is_given();
  invocation.libvirt_uri = options.connect;
  // libvirt itself asks the environment when it is given none; the file comes after that.
  if (invocation.libvirt_uri.empty() && ::secure_getenv("LIBVIRT_DEFAULT_URI") == nullptr)
    invocation.libvirt_uri = invocation.config.libvirt_uri;
  invocation.json = options.json;
  const bool draw = !options.json && !options.quiet && !options.no_progress && ::isatty(STDERR_FILENO) == 1;
  invocation.progress = draw ? Progress::Mode::lines : Progress::Mode::notes;
  invocation.stop = stop;
  return invocation;
}

/// Whether errors are wanted as JSON, also when the command line could not be parsed to its end.
bool wants_json(std::span<const char* const> arguments) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [](const char* argument) { return std::string_view(argument) == "--json"; });
}

ExitCode parse_and_run(int argc, const char* const* argv, std::span<const Verb> verbs, const Interrupt& interrupt,
                       std::string& verb_name) {
  GlobalOptions options;
  CLI::App parser("Takes and keeps still points of running guests: one instant at block, file and application level.",
                  "stillpoint");
  add_global_options(parser, options);
  parser.require_subcommand(0, 1);
  parser.get_formatter()->label("SUBCOMMAND", "VERB");
  parser.get_formatter()->label("Subcommands", "Verbs");
  parser.get_formatter()->label("REQUIRED", "");
  parser.get_formatter()->label("TEXT", "");
  parser.get_formatter()->label("Excludes", "not with");
  parser.footer("Exit codes, files and examples: man stillpoint");
  std::vector<std::pair<CLI::App*, RunVerb>> parsers;
  for (const Verb& verb : verbs) {
    CLI::App* sub = parser.add_subcommand(verb.name, verb.summary);
    sub->set_help_flag("-h,--help", "print this help");
    sub->fallthrough();
    sub->footer("Options of every verb: stillpoint --help");
    parsers.emplace_back(sub, verb.add(*sub));
  }
  const auto chosen = [&]() -> const std::pair<CLI::App*, RunVerb>* {
    const auto it = std::find_if(parsers.begin(), parsers.end(), [](const auto& p) { return p.first->parsed(); });
    return it == parsers.end() ? nullptr : &*it;
  };
  try {
    parser.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print_result(parser.help());
    return ExitCode::success;
  } catch (const CLI::CallForVersion&) {
    print_result(parser.version() + "\n");
    return ExitCode::success;
  } catch (const CLI::ParseError& error) {
    const auto* verb = chosen();
    if (verb != nullptr) verb_name = verb->first->get_name();
    throw_usage(error, parser, verb ? verb->first : nullptr);
  }
  const auto* verb = chosen();
  if (verb == nullptr) throw UsageError("a verb is missing", "run 'stillpoint --help'");
  verb_name = verb->first->get_name();
  if (options.debug)
    set_log_level(LogLevel::debug);
  else if (options.quiet)
    set_log_level(LogLevel::warning);
  return verb->second(invocation_of(options, interrupt.token()));
}

/// Every tree holds some hundred files open while it is written, and a shell's usual limit is for a few trees only.
void allow_many_files() {
  constexpr rlim_t enough = 16384;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= enough) return;
  limit.rlim_cur = std::min(limit.rlim_max, enough);
  static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
}

}  // namespace

int run_command_line(int argc, const char* const* argv, std::span<const Verb> verbs) noexcept {
  std::string verb;
  allow_many_files();
  const bool json = wants_json({argv, static_cast<std::size_t>(argc)});
  try {
    const Interrupt interrupt;
    try {
      return static_cast<int>(parse_and_run(argc, argv, verbs, interrupt, verb));
    } catch (const std::exception& e) {
      // What fails while a signal is being obeyed fails because of it: a helper program that the terminal stopped too.
      if (interrupt.signal_name().empty() || dynamic_cast<const Interrupted*>(&e) != nullptr) throw;
      throw Interrupted(fmt::format("stopped by {} ({})", interrupt.signal_name(), e.what()));
    }
  } catch (const std::exception& e) {
    return static_cast<int>(report_error(e, verb, json));
  }
}

}  // namespace stillpoint
