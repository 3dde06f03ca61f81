// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <memory>
#include <string>
#include <string_view>

namespace stillpoint {

/// What a running verb tells the operator, on stderr: a line for each disk, dump and tree with its bar, sizes, rate and
/// time left, redrawn at most ten times a second while stderr is a terminal. All of it may be called from any thread.
class Progress {
 public:
  enum class Mode {
    lines,  ///< draw
    notes,  ///< no lines, notes go to the log: what machines and logs get
  };

  /// `fd` is a terminal when `mode` is lines.
  Progress(Mode mode, int fd);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Erases the lines that are still open: what has ended stays on the screen.
  ~Progress();

  /// A line that stays until the returned object goes, which it must before this one. A total of 0, or one that equals
  /// what is done, means that the total is unknown.
  [[nodiscard]] std::unique_ptr<CaptureProgress> line(std::string_view name);

  /// One sentence of what happens, above the lines or in the log.
  void note(std::string_view text);

 private:
  class Screen;
  std::shared_ptr<Screen> screen_;  ///< none when nothing is drawn
};

}  // namespace stillpoint
