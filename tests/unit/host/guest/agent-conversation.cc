// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/agent-conversation.hh"

#include "common/errors.hh"
#include "common/protocol-errors.hh"
#include "tests/unit/host/guest/scripted-agent.hh"

#include <doctest/doctest.h>

using namespace stillpoint;
using namespace std::chrono_literals;
using Port = ScriptedAgent::Port;

namespace {

const std::string id(32, 'a');

Json report_of(const std::string& report_id) {
  Report report;
  report.id = report_id;
  report.agent_version = "7.1";
  report.hostname = "web1";
  report.quiesced = true;
  return to_json(report);
}

/// What `use` does with a conversation whose other side does `script` after the hello.
template <typename F>
void converse(const std::function<void(Port&)>& script, F use) {
  ScriptedAgent agent([&](Port& port) {
    port.answer_hello();
    script(port);
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  use(conversation);
}

}  // namespace

TEST_CASE("the agent's answers arrive, and late or unknown words between them do no harm") {
  converse(
      [](Port& port) {
        const Json prepare = port.receive("prepare");
        CHECK(prepare["id"] == id);
        CHECK(prepare["deadline_ms"] > 1000);
        port.send(Json{{"type", "prepared"}, {"id", std::string(32, 'b')}});
        port.send(Json{{"type", "of-a-later-agent"}, {"x", 1}});
        port.send(Json{{"type", "prepared"},
                       {"id", id},
                       {"databases", Json::array({{{"engine", "mariadb"},
                                                   {"instance", "default"},
                                                   {"database", "shop"},
                                                   {"ready", false},
                                                   {"reason", "no \x1b[31mpassword"}}})},
                       {"clusters", {"galera-1"}},
                       {"warnings", {"one"}}});
        port.receive("report");
        port.send(Json{{"type", "report"}, {"id", id}, {"report", report_of(id)}});
        port.receive("finish");
        port.send(Json{{"type", "finished"}, {"id", id}});
      },
      [](AgentConversation& conversation) {
        CHECK(conversation.agent_version() == "7.1");
        const PreparedDatabases prepared = conversation.prepare(id, Deadline(20s));
        REQUIRE(prepared.databases.size() == 1);
        CHECK(prepared.databases[0].engine == "mariadb");
        CHECK(prepared.databases[0].reason == "no  [31mpassword");  // nothing that a terminal would obey
        CHECK(prepared.clusters == std::vector<std::string>{"galera-1"});
        CHECK(prepared.warnings == std::vector<std::string>{"one"});
        CHECK(conversation.held() == id);
        CHECK(conversation.report(id, Deadline(20s)).hostname == "web1");
        conversation.finish(id, Deadline(20s));
        CHECK(conversation.held().empty());
      });
}

TEST_CASE("an error becomes the agent's words") {
  converse(
      [](Port& port) {
        port.receive("report");
        port.send(Json{{"type", "error"}, {"request", "prepare"}, {"message", "not this one"}});
        port.send(Json{{"type", "error"}, {"request", "report"}, {"message", "there is none"}});
      },
      [](AgentConversation& conversation) {
        CHECK_THROWS_WITH_AS(static_cast<void>(conversation.report(id, Deadline(20s))),
                             "the agent refuses to report: there is none", QuiesceError);
      });
}

TEST_CASE("an agent that was started anew ends the dumps at once") {
  converse(
      [](Port& port) {
        port.receive("dump");
        port.send(Json{{"type", "error"}, {"request", "dump"}, {"message", protocol::not_greeted}});
      },
      [](AgentConversation& conversation) {
        class Ignore : public DumpSink {
          void write(std::span<const std::byte>) override {}
          void end(const std::string&) override {}
        };
        CHECK_THROWS_AS(conversation.run_dumps(id, {"postgresql/main/app"},
                                               [](const std::string&) { return std::make_unique<Ignore>(); }, 60s, {}),
                        Unreachable);
      });
}

TEST_CASE("what an earlier connection left in the port is skipped") {
  ScriptedAgent agent([](Port& port) {
    port.send_bytes("half a frame of an earlier connection");
    port.send(Json{{"type", "hello"}, {"version", 1}, {"nonce", std::string(32, '0')}, {"agent", "old"}});
    port.send_data(3, "rest of a dump");
    // The header of a frame whose payload never came: it must not swallow our hello.
    port.send_bytes(encode_frame(FrameType::data, 3, std::string(200000, 'x')).substr(0, 5000));
    port.answer_hello();
    port.answer_hello();
    port.wait_for_close();
  });
  AgentConversation conversation(agent.take(), Deadline(20s));
  CHECK(conversation.agent_version() == "7.1");
}

TEST_CASE("nobody, the wrong nonce and the wrong version are unreachable") {
  const auto greet = [](const std::function<void(Port&)>& script, std::chrono::milliseconds limit) {
    ScriptedAgent agent([&](Port& port) {
      script(port);
      port.wait_for_close();
    });
    AgentConversation(agent.take(), Deadline(limit));
  };
  CHECK_THROWS_WITH_AS(greet([](Port&) {}, 200ms), "no stillpoint-agent answers in the guest", Unreachable);
  const auto wrong_nonce = [](Port& port) {
    port.send(Json{{"type", "hello"}, {"version", 1}, {"nonce", std::string(32, '0')}, {"agent", "x"}});
  };
  CHECK_THROWS_WITH_AS(greet(wrong_nonce, 200ms), "no stillpoint-agent answers in the guest", Unreachable);
  const auto wrong_version = [](Port& port) {
    const Json hello = port.receive("hello");
    port.send(Json{{"type", "hello"}, {"version", 2}, {"nonce", hello["nonce"]}, {"agent", "x"}});
  };
  CHECK_THROWS_WITH_AS(greet(wrong_version, 20s), "the agent speaks version 2 of the protocol, not 1", Unreachable);
  const auto refusal = [](Port& port) {
    port.receive("hello");
    port.send(Json{{"type", "error"}, {"request", "hello"}, {"message", "version 1 is too old"}});
  };
  CHECK_THROWS_WITH_AS(greet(refusal, 400ms), "the agent refuses the connection: version 1 is too old", Unreachable);
  CHECK_THROWS_AS(greet([](Port& port) { port.send_bytes(std::string(17 << 20, 'S')); }, 1s), Unreachable);
}

TEST_CASE("a guest that breaks the protocol ends the conversation") {
  const auto answer_prepare_by = [](const std::function<void(Port&)>& script) {
    converse(
        [&](Port& port) {
          port.receive("prepare");
          script(port);
        },
        [](AgentConversation& conversation) { static_cast<void>(conversation.prepare(id, Deadline(20s))); });
  };
  CHECK_THROWS_AS(answer_prepare_by([](Port& port) { port.send_bytes("garbage where a frame should be"); }),
                  ProtocolError);
  std::string huge = encode_frame(FrameType::control, 0, "");
  huge.replace(12, 4, "\xff\xff\xff\xff");
  CHECK_THROWS_AS(answer_prepare_by([&](Port& port) { port.send_bytes(huge); }), ProtocolError);
  CHECK_THROWS_AS(answer_prepare_by([](Port& port) { port.send_bytes(encode_frame(FrameType::control, 0, "{")); }),
                  ProtocolError);
  CHECK_THROWS_AS(answer_prepare_by([](Port& port) { port.send_data(1, "unasked"); }), ProtocolError);
  CHECK_THROWS_AS(answer_prepare_by([](Port& port) {
                    port.send(Json{{"type", "prepared"}, {"id", id}, {"databases", {1}}});
                  }),
                  ProtocolError);
  CHECK_THROWS_AS(answer_prepare_by([](Port& port) {
                    port.send(Json{{"type", "prepared"}, {"id", id}, {"databases", "many"}});
                  }),
                  ProtocolError);
}

TEST_CASE("a report of another still point is refused") {
  converse(
      [](Port& port) {
        port.receive("report");
        port.send(Json{{"type", "report"}, {"id", id}, {"report", report_of(std::string(32, 'b'))}});
      },
      [](AgentConversation& conversation) {
        CHECK_THROWS_AS(static_cast<void>(conversation.report(id, Deadline(20s))), ProtocolError);
      });
}

TEST_CASE("silence ends at the deadline, and a closed port at once") {
  converse([](Port&) {},
           [](AgentConversation& conversation) {
             CHECK_THROWS_WITH_AS(static_cast<void>(conversation.prepare(id, Deadline(100ms))),
                                  "the agent does not answer 'prepare' in time", Unreachable);
           });
  ScriptedAgent agent([](Port& port) { port.answer_hello(); });
  AgentConversation conversation(agent.take(), Deadline(20s));
  CHECK_THROWS_AS(static_cast<void>(conversation.prepare(id, Deadline(20s))), Unreachable);
}
