// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/progress.hh"

#include "common/clock.hh"
#include "common/log-writer.hh"
#include "common/log.hh"
#include "host/commands/format.hh"
#include "host/commands/progress-line.hh"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

namespace stillpoint {

namespace {

constexpr std::chrono::milliseconds redraw_every{100};

/// One line's counters: the capturing thread only stores two numbers.
struct Counters {
  explicit Counters(std::string_view line_name) : name(printable(line_name)) {}
  std::string name;
  SteadyClock::time_point begun = SteadyClock::now();
  std::atomic<std::uint64_t> done = 0;
  std::atomic<std::uint64_t> total = 0;

  [[nodiscard]] LineState state(bool ended) const {
    return {name, done.load(), total.load(),
            std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun), ended};
  }
};

struct TerminalSize {
  std::size_t rows = 24;
  std::size_t columns = 80;
};

TerminalSize terminal_size(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) return {};
  return {size.ws_row, size.ws_col};
}

class SilentLine : public CaptureProgress {
 public:
  void advance(std::uint64_t /*done*/, std::uint64_t /*total*/) override {}
};

}  // namespace

/// The lines at the bottom of the terminal, and the thread that draws them.
class Progress::Screen {
 public:
  explicit Screen(int fd) : fd_(fd), thread_([this](const std::stop_token& end) { draw_until(end); }) {
    // Lines that were written by themselves would be erased with the next drawing.
    set_log_writer([this](std::string_view line) { note(line); });
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen() {
    set_log_writer({});
    thread_.request_stop();
    thread_.join();
    const std::lock_guard lock(mutex_);
    write(erased());
  }

  Counters& add(std::string_view name) {
    const std::lock_guard lock(mutex_);
    name_width_ = std::max(name_width_, display_width(lines_.emplace_back(name).name));
    return lines_.back();
  }

  void end(const Counters& line) noexcept {
    try {
      const std::lock_guard lock(mutex_);
      const TerminalSize size = terminal_size(fd_);
      pending_ += progress_text(line.state(true), name_width_, size.columns - 1) + '\n';
      lines_.remove_if([&](const Counters& other) { return &other == &line; });
      draw();
    } catch (const std::exception&) {
      // No memory for a line of text: nothing here can help.
    }
  }

  void note(std::string_view text) {
    const std::lock_guard lock(mutex_);
    pending_ += printable(text) + '\n';
    draw();
  }

 private:
  void draw_until(const std::stop_token& end) {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, end, redraw_every, [&] { return end.stop_requested(); })) {
      try {
        draw();
      } catch (const std::exception&) {
        return;
      }
    }
  }

  /// Takes the drawn lines off the screen.
  std::string erased() {
    std::string out;
    if (drawn_ > 0) out = fmt::format("\x1b[{}A\r\x1b[J", drawn_);
    drawn_ = 0;
    return out;
  }

  void draw() {
    const TerminalSize size = terminal_size(fd_);
    std::string out = erased() + pending_;
    pending_.clear();
    const std::size_t room = size.rows > 2 ? size.rows - 2 : 1;
    std::size_t shown = 0;
    for (const Counters& line : lines_) {
      if (shown == room && lines_.size() > room) break;
      // One column is left free: a full line would wrap on some terminals, and the count of lines would be wrong.
      out += progress_text(line.state(false), name_width_, size.columns - 1) + '\n';
      ++shown;
    }
    drawn_ = shown;
    if (lines_.size() > shown) {
      out += fmt::format("... and {} more\n", lines_.size() - shown);
      ++drawn_;
    }
    write(out);
  }

  void write(std::string_view text) const {
    // A progress that cannot be shown is no reason to stop.
    if (!text.empty()) static_cast<void>(!::write(fd_, text.data(), text.size()));
  }

  const int fd_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::list<Counters> lines_;
  std::string pending_;  ///< whole lines that are to stay above the drawn ones
  std::size_t name_width_ = 0;
  std::size_t drawn_ = 0;
  std::jthread thread_;
};

namespace {

template <typename Screen>
class DrawnLine : public CaptureProgress {
 public:
  DrawnLine(std::shared_ptr<Screen> screen, std::string_view name)
      : screen_(std::move(screen)), counters_(screen_->add(name)) {}
  DrawnLine(const DrawnLine&) = delete;
  DrawnLine& operator=(const DrawnLine&) = delete;
  ~DrawnLine() override { screen_->end(counters_); }

  void advance(std::uint64_t done, std::uint64_t total) override {
    counters_.done.store(done, std::memory_order_relaxed);
    counters_.total.store(total, std::memory_order_relaxed);
  }

 private:
  std::shared_ptr<Screen> screen_;
  Counters& counters_;
};

}  // namespace

Progress::Progress(Mode mode, int fd) : screen_(mode == Mode::lines ? std::make_shared<Screen>(fd) : nullptr) {}

Progress::~Progress() = default;

std::unique_ptr<CaptureProgress> Progress::line(std::string_view name) {
  if (!screen_) return std::make_unique<SilentLine>();
  return std::make_unique<DrawnLine<Screen>>(screen_, name);
}

void Progress::note(std::string_view text) {
  if (screen_)
    screen_->note(text);
  else
    log_info("{}", text);
}

}  // namespace stillpoint
