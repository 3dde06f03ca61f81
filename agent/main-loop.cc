// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/main-loop.hh"

#include <glib-unix.h>

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>

namespace stillpoint {

namespace {

template <typename F>
void free_call(gpointer call) {
  delete static_cast<F*>(call);
}

gboolean call_once(gpointer call) {
  (*static_cast<std::function<void()>*>(call))();
  return G_SOURCE_REMOVE;
}

gboolean call_again(gpointer call) {
  (*static_cast<std::function<void()>*>(call))();
  return G_SOURCE_CONTINUE;
}

gboolean call_ready(gint, GIOCondition condition, gpointer call) {
  (*static_cast<std::function<void(GIOCondition)>*>(call))(condition);
  return G_SOURCE_CONTINUE;
}

GSource* timer(std::chrono::milliseconds delay, GSourceFunc call, std::function<void()> target) {
  GSource* source = g_timeout_source_new(static_cast<guint>(delay.count()));
  g_source_set_callback(source, call, new std::function<void()>(std::move(target)), free_call<std::function<void()>>);
  g_source_attach(source, nullptr);
  return source;
}

}  // namespace

Source::Source(Source&& other) noexcept : source_(std::exchange(other.source_, nullptr)) {}

Source& Source::operator=(Source&& other) noexcept {
  if (this != &other) {
    reset();
    source_ = std::exchange(other.source_, nullptr);
  }
  return *this;
}

void Source::reset() noexcept {
  GSource* source = std::exchange(source_, nullptr);
  if (source == nullptr) return;
  g_source_destroy(source);
  g_source_unref(source);
}

Source Source::after(std::chrono::milliseconds delay, std::function<void()> expired) {
  return Source(timer(delay, call_once, std::move(expired)));
}

Source Source::every(std::chrono::milliseconds period, std::function<void()> tick) {
  return Source(timer(period, call_again, std::move(tick)));
}

Source Source::watch(int fd, GIOCondition events, std::function<void(GIOCondition)> ready) {
  using Ready = std::function<void(GIOCondition)>;
  GSource* source = g_unix_fd_source_new(fd, events);
  // GLib's own way to give a descriptor source its callback (g_unix_fd_add does the same).
  const GUnixFDSourceFunc typed = call_ready;
  g_source_set_callback(source, reinterpret_cast<GSourceFunc>(reinterpret_cast<void (*)()>(typed)),
                        new Ready(std::move(ready)), free_call<Ready>);
  g_source_attach(source, nullptr);
  return Source(source);
}

void post(std::function<void()> call) {
  g_idle_add_full(G_PRIORITY_DEFAULT, call_once, new std::function<void()>(std::move(call)),
                  free_call<std::function<void()>>);
}

namespace {

struct Round {
  std::vector<std::string> failures;
  std::atomic<std::size_t> left = 0;
  std::function<void(const std::vector<std::string>&)> done;
  std::vector<std::jthread> threads;
};

void post_end(const std::shared_ptr<Round>& round) {
  post([round] {
    round->threads.clear();  // each has posted or is about to return: joining takes no time
    round->done(round->failures);
  });
}

}  // namespace

void run_blocking(std::vector<std::function<void()>> calls,
                  std::function<void(const std::vector<std::string>& failures)> done) {
  auto round = std::make_shared<Round>();
  round->failures.resize(calls.size());
  round->left = calls.size();
  round->done = std::move(done);
  if (calls.empty()) return post_end(round);
  for (std::size_t i = 0; i < calls.size(); ++i)
    round->threads.emplace_back([round, i, call = std::move(calls[i])] {
      try {
        call();
      } catch (const std::exception& e) {
        round->failures[i] = *e.what() == '\0' ? "unknown error" : e.what();
      }
      if (round->left.fetch_sub(1) == 1) post_end(round);
    });
}

}  // namespace stillpoint
