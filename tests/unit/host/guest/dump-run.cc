// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/dump-run.hh"

#include "common/errors.hh"
#include "tests/unit/host/guest/scripted-agent.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

using namespace stillpoint;
using namespace std::chrono_literals;
using Port = ScriptedAgent::Port;

namespace {

const std::string id(32, 'a');

struct Received {
  std::string bytes;
  std::string failure = "never ended";
  std::string tool;  ///< of a check
};
using All = std::map<std::string, Received>;

class Keep : public DumpSink {
 public:
  explicit Keep(Received& into) : into_(into) {}
  void write(std::span<const std::byte> bytes) override { into_.bytes += as_text(bytes); }
  void end(const std::string& failure) override { into_.failure = failure; }
  void checked_by(const std::string& tool) override { into_.tool = tool; }

 private:
  Received& into_;
};

Json end_of(std::uint32_t stream, std::uint64_t bytes, bool ok = true, const std::string& message = {}) {
  return Json{{"type", "dump-end"}, {"stream", stream}, {"bytes", bytes}, {"ok", ok}, {"message", message}};
}

std::uint32_t stream_of(const Json& message) {
  return message.empty() ? 0 : message["stream"].get<std::uint32_t>();
}

All dumps_from(const std::vector<std::string>& names, const std::function<void(Port&)>& script,
               std::chrono::milliseconds silence = 20s) {
  ScriptedAgent agent([&](Port& port) {
    port.answer_hello();
    script(port);
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  All all;
  conversation.run_dumps(id, names, [&](const std::string& name) { return std::make_unique<Keep>(all[name]); }, silence,
                         {});
  return all;
}

/// Sends `total` bytes on the stream, never more than its credit.
void send_within_credit(Port& port, std::uint32_t stream, std::uint64_t total) {
  const std::string piece(max_data_bytes, 'd');
  for (std::uint64_t sent = 0; sent < total;) {
    if (sent == port.granted() && port.receive("credit").empty()) return;
    const std::uint64_t length = std::min<std::uint64_t>({piece.size(), total - sent, port.granted() - sent});
    port.send_data(stream, std::string_view(piece).substr(0, length));
    sent += length;
  }
  port.send(end_of(stream, total));
}

}  // namespace

TEST_CASE("a dump longer than the window arrives whole") {
  const std::uint64_t total = 3 * dump_window + 12345;
  All all = dumps_from({"postgresql/15-main/app"}, [&](Port& port) {
    const Json dump = port.receive("dump");
    CHECK(dump["name"] == "postgresql/15-main/app");
    CHECK(dump["id"] == id);
    send_within_credit(port, stream_of(dump), total);
  });
  CHECK(all["postgresql/15-main/app"].bytes.size() == total);
  CHECK(all["postgresql/15-main/app"].failure.empty());
}

TEST_CASE("several dumps run at once, the others when these end") {
  std::vector<std::string> names;
  for (int i = 0; i < 6; ++i)
    names.push_back("mariadb/default/db" + std::to_string(i));
  All all = dumps_from(names, [&](Port& port) {
    std::vector<Json> running;
    for (std::size_t i = 0; i < dumps_at_once; ++i)
      running.push_back(port.receive("dump"));
    for (std::size_t i = 0; i < names.size(); ++i) {
      const Json dump = running.at(i);
      port.send_data(stream_of(dump), dump["name"].get<std::string>());
      port.send(end_of(stream_of(dump), dump["name"].get<std::string>().size()));
      if (running.size() < names.size()) running.push_back(port.receive("dump"));
    }
    std::set<std::uint32_t> streams;
    for (const Json& dump : running)
      streams.insert(stream_of(dump));
    CHECK(streams.size() == names.size());
  });
  for (const std::string& name : names) {
    CHECK(all[name].bytes == name);
    CHECK(all[name].failure.empty());
  }
}

TEST_CASE("a dump that fails, is refused or is cut short says so, and the others go on") {
  All all = dumps_from({"a/failed", "a/refused", "a/short", "a/good"}, [](Port& port) {
    const std::uint32_t failed = stream_of(port.receive("dump"));
    const std::uint32_t refused = stream_of(port.receive("dump"));
    const std::uint32_t cut = stream_of(port.receive("dump"));
    const std::uint32_t good = stream_of(port.receive("dump"));
    port.send_data(failed, "half");
    port.send_data(cut, "half");
    port.send(end_of(failed, 4, false, "pg_dump: out\nof memory"));
    port.send(Json{{"type", "error"}, {"request", "dump"}, {"message", "no such dump"}, {"stream", refused}});
    port.send(end_of(cut, 5));
    port.send(end_of(good, 0));
  });
  CHECK(all["a/failed"].failure == "pg_dump: out of memory");
  CHECK(all["a/refused"].failure == "no such dump");
  CHECK(all["a/short"].failure == "the agent says that it sent 5 bytes, and 4 arrived");
  CHECK(all["a/good"].failure.empty());
}

TEST_CASE("a silent stream fails alone, and what it sends late is dropped") {
  All all = dumps_from(
      {"a/silent", "a/good"},
      [](Port& port) {
        const std::uint32_t silent = stream_of(port.receive("dump"));
        const std::uint32_t good = stream_of(port.receive("dump"));
        port.send_data(good, "all");
        port.send(end_of(good, 3));
        CHECK(stream_of(port.receive("cancel")) == silent);
        port.send_data(silent, "late");
        port.send(end_of(silent, 4));
      },
      300ms);
  CHECK(all["a/silent"].failure == "the agent sent nothing for 300 ms");
  CHECK(all["a/good"].failure.empty());
}

TEST_CASE("bytes of unknown streams and after the end break the conversation") {
  CHECK_THROWS_AS(dumps_from({"a/b"}, [](Port& port) { port.send_data(stream_of(port.receive("dump")) + 7, "x"); }),
                  ProtocolError);
  CHECK_THROWS_AS(dumps_from({"a/b", "a/c"},
                             [](Port& port) {
                               const std::uint32_t stream = stream_of(port.receive("dump"));
                               port.send(end_of(stream, 0));
                               port.send_data(stream, "x");
                             }),
                  ProtocolError);
  CHECK_THROWS_AS(dumps_from({"a/b"}, [](Port& port) { port.send(end_of(stream_of(port.receive("dump")) + 1, 0)); }),
                  ProtocolError);
  CHECK_THROWS_AS(
      dumps_from({"a/b"},
                 [](Port& port) {
                   port.send(Json{{"type", "dump-end"}, {"stream", stream_of(port.receive("dump"))}, {"bytes", -1}});
                 }),
      ProtocolError);
}

TEST_CASE("a sink that throws cancels all dumps, and the conversation can still finish") {
  class Full : public DumpSink {
   public:
    void write(std::span<const std::byte>) override { throw StorageError("disk full"); }
    void end(const std::string&) override {}
  };
  ScriptedAgent agent([](Port& port) {
    port.answer_hello();
    const std::uint32_t first = stream_of(port.receive("dump"));
    const std::uint32_t second = stream_of(port.receive("dump"));
    port.send_data(first, "x");
    std::set<std::uint32_t> cancelled{stream_of(port.receive("cancel"))};
    port.send_data(second, "on its way");
    cancelled.insert(stream_of(port.receive("cancel")));
    CHECK(cancelled == std::set<std::uint32_t>{first, second});
    port.send(end_of(first, 1, false));
    port.send(end_of(second, 10, false));
    port.receive("finish");
    port.send(Json{{"type", "finished"}, {"id", id}});
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  const DumpSinkFor sink = [](const std::string&) { return std::make_unique<Full>(); };
  CHECK_THROWS_WITH_AS(conversation.run_dumps(id, {"a/b", "a/c"}, sink, 20s, {}), "disk full", StorageError);
  CHECK_NOTHROW(conversation.finish(id, Deadline(20s)));
}

// A running stream never has too little credit: it is given more as it is read.
TEST_CASE("a cancelled stream may send the rest of its credit, and no more") {
  std::uint64_t allowed = dump_window;
  bool good = true;
  SUBCASE("within") {}
  SUBCASE("beyond") {
    allowed += 1;
    good = false;
  }
  ScriptedAgent agent([&](Port& port) {
    port.answer_hello();
    const std::uint32_t stream = stream_of(port.receive("dump"));
    port.receive("cancel");
    for (std::uint64_t left = allowed; left > 0; left -= std::min<std::uint64_t>(left, max_data_bytes))
      port.send_data(stream, std::string(std::min<std::uint64_t>(left, max_data_bytes), 'x'));
    port.receive("finish");
    port.send(Json{{"type", "finished"}, {"id", id}});
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  Received received;
  conversation.run_dumps(id, {"a/b"}, [&](const std::string&) { return std::make_unique<Keep>(received); }, 100ms, {});
  if (good)
    CHECK_NOTHROW(conversation.finish(id, Deadline(20s)));
  else
    CHECK_THROWS_WITH_AS(conversation.finish(id, Deadline(20s)), "the agent sends more than it may", ProtocolError);
}

TEST_CASE("a stop ends dumps from which nothing comes") {
  std::stop_source stop;
  ScriptedAgent agent([&](Port& port) {
    port.answer_hello();
    port.receive("dump");
    stop.request_stop();
    port.receive("cancel");
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  Received received;
  const auto keep = [&](const std::string&) { return std::make_unique<Keep>(received); };
  CHECK_THROWS_AS(conversation.run_dumps(id, {"a/b"}, keep, 20s, stop.get_token()), Interrupted);
}

TEST_CASE("a slow sink's time is not the agent's") {
  class Slow : public DumpSink {
   public:
    void write(std::span<const std::byte>) override { std::this_thread::sleep_for(700ms); }
    void end(const std::string& failure) override { CHECK(failure.empty()); }
  };
  ScriptedAgent agent([](Port& port) {
    port.answer_hello();
    const std::uint32_t first = stream_of(port.receive("dump"));
    const std::uint32_t second = stream_of(port.receive("dump"));
    port.send_data(first, "x");
    port.send(end_of(first, 1));
    port.receive("credit");
    port.send_data(second, "x");
    port.send(end_of(second, 1));
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  conversation.run_dumps(id, {"a/b", "a/c"}, [](const std::string&) { return std::make_unique<Slow>(); }, 300ms, {});
}

TEST_CASE("a check says who made it and what was found, and an agent that knows none says so") {
  All all;
  const auto checked = [&](const std::vector<std::string>& names, const std::function<void(Port&)>& script) {
    ScriptedAgent agent([&](Port& port) {
      port.answer_hello();
      script(port);
      port.wait_for_close();
    });
    AgentConversation conversation(agent.take(), Deadline(20s));
    conversation.run_checks(id, names, [&](const std::string& name) { return std::make_unique<Keep>(all[name]); }, 20s,
                            {});
  };
  checked({"a/good", "a/bad", "a/none"}, [](Port& port) {
    Json end = end_of(stream_of(port.receive("check")), 0);
    end["tool"] = "pg_amcheck";
    port.send(end);
    const std::uint32_t bad = stream_of(port.receive("check"));
    port.send_data(bad, "index is broken");
    end = end_of(bad, 15, false, "exit status 2");
    end["tool"] = "pg_amcheck\x1b[2J";
    port.send(end);
    port.send(end_of(stream_of(port.receive("check")), 0, false, "not installed"));
  });
  CHECK(all["a/good"].tool == "pg_amcheck");
  CHECK(all["a/good"].failure.empty());
  CHECK(all["a/bad"].tool.find('\x1b') == std::string::npos);
  CHECK(all["a/bad"].bytes == "index is broken");
  CHECK(all["a/bad"].failure == "exit status 2");
  CHECK(all["a/none"].tool.empty());
  CHECK(all["a/none"].failure == "not installed");
  checked({"b/old", "b/older"}, [](Port& port) {
    for (int i = 0; i < 2; ++i) {
      port.receive("check");
      port.send(Json{{"type", "error"}, {"request", "check"}, {"message", "this request is not known"}});
    }
  });
  for (const char* name : {"b/old", "b/older"}) {
    CHECK(all[name].tool.empty());
    CHECK(all[name].failure == "this request is not known");
  }
}
