// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/discovery.hh"
#include "agent/engine.hh"
#include "common/program.hh"

#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A program that quiesces databases of a kind that the agent does not know (docs/engines.md is the contract).
struct Plugin {
  std::filesystem::path path;
  std::string engine;  ///< what its `probe` says
};

/// All plug-ins of the guest. They are frozen one after the other in the order of their names, beside the other
/// engines, and thawed in reverse.
class PluginEngine final : public Engine {
 public:
  /// `id` is the still point's.
  PluginEngine(const AgentConfig& config, std::string id, std::vector<Plugin> plugins);
  PluginEngine(const PluginEngine&) = delete;
  PluginEngine& operator=(const PluginEngine&) = delete;
  ~PluginEngine() override;

  [[nodiscard]] std::string_view engine() const override { return "plug-ins"; }
  [[nodiscard]] std::string_view instance() const override { return "default"; }
  /// The databases have their plug-in's engine and instance.
  [[nodiscard]] bool reports(const DatabaseReport& database) const override;
  void prepare(bool for_dumps, const Deadline& deadline) override;
  void quiesce(const Deadline& deadline) override;
  void release(const Deadline& deadline) noexcept override;
  [[nodiscard]] std::vector<DatabaseReport> report() const override;
  [[nodiscard]] RunningDump start_dump(std::string_view name) override;
  void finish() noexcept override;
  void cancel() noexcept override;

 private:
  struct Entry {
    Plugin plugin;
    std::filesystem::path directory;  ///< its own until finish()
    std::vector<DatabaseReport> databases;
    std::string fault;                   ///< why it cannot be used; empty when it can
    std::vector<RunningProgram> groups;  ///< what its prepare and freeze may have left running
    bool prepared = false;               ///< until its abort
    bool frozen = false;                 ///< from the attempt until its thaw
  };
  [[nodiscard]] Program program(const Entry& entry, std::string_view verb, std::vector<std::string> environment) const;
  std::string call(Entry& entry, std::string_view verb, std::vector<std::string> environment, const Deadline& deadline,
                   int cancelled) const;
  void prepare_one(Entry& entry, const Deadline& deadline) const;
  void freeze_one(Entry& entry, const Deadline& deadline) const;
  void thaw_one(Entry& entry, const Deadline& deadline) const;
  void refuse_same_dumps();

  const AgentConfig& config_;
  const std::string id_;
  std::vector<Entry> entries_;
  bool for_dumps_ = false;
  Pipe lifeline_;       ///< its end tells what plug-ins have left running that nobody needs it any more
  UniqueFd cancelled_;  ///< for good: nothing but the way back follows
};

/// Adds the plug-ins that the agent ships and those in the configured directory which have something here; one of the
/// latter takes the place of one of the former with its name. Those that cannot be used become unusable.
void discover_plugins(const AgentConfig& config, const std::string& id, const Deadline& deadline, Discovered& found);

}  // namespace stillpoint
