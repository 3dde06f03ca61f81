// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/checksum.hh"
#include "host/repository/document.hh"
#include "host/repository/record-seal.hh"
#include "host/repository/repository.hh"
#include "tests/unit/host/repository/faulty-store.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <set>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

namespace {

KeySource key_file(char fill) {
  KeySource source;
  source.key_file = std::string(40, fill);
  return source;
}

AskForKey with(const KeySource& source) {
  return [source] { return source; };
}

/// An encrypted repository with one still point.
struct Encrypted {
  Scratch scratch;
  Bytes disk = text_bytes(4 * small_chunks + 100, 1);
  Bytes dump = text_bytes(100000, 2);
  Manifest manifest;

  Encrypted() {
    RepositoryOptions options{small_chunks};
    options.key = key_file('k');
    Repository::create(scratch.repository(), options);
    Repository repository = open();
    manifest = commit(repository, "web1", write_whole(repository, disk), write_stream(repository, dump));
  }
  Repository open(const KeySource& source = key_file('k')) const {
    return Repository(scratch.repository(), Repository::Mode::write, with(source));
  }
  bool reads(const KeySource& source = key_file('k')) const {
    Repository repository = open(source);
    const Manifest found = repository.load("web1");
    return read_whole(repository, found.disks.at(0).map) == disk &&
           read_stream(repository, found.dumps.at(0).map) == dump;
  }
  VerifyResult verify() const {
    VerifyOptions options;
    options.read_percent = 100;
    return open().verify({}, options);
  }
  fs::path root() const { return scratch.repository(); }
};

std::set<std::string> chunk_ids(const Encrypted& encrypted) {
  Repository repository = encrypted.open();
  std::set<std::string> ids;
  ids.insert(to_hex(repository.load("web1").disks.at(0).map.root));
  return ids;
}

}  // namespace

TEST_CASE("an encrypted repository gives back what was stored, to its keys alone") {
  const Quiet quiet;
  const Encrypted encrypted;
  CHECK(encrypted.reads());
  CHECK(encrypted.open().encrypted());
  CHECK(encrypted.verify().damaged.empty());
  CHECK(encrypted.verify().problems.empty());
  CHECK_THROWS_AS(encrypted.open(key_file('x')), ConfigError);
  CHECK_THROWS_AS(Repository(encrypted.scratch.repository(), Repository::Mode::read), ConfigError);
  KeySource passphrase;
  passphrase.passphrase = "correct horse";
  CHECK_THROWS_AS(encrypted.open(passphrase), ConfigError);
  // What is there already is recognised, by another program too.
  Repository repository = encrypted.open();
  StoredCounts counts;
  static_cast<void>(write_whole(repository, encrypted.disk, &counts));
  CHECK(counts.new_chunks == 0);
}

TEST_CASE("a configuration that says otherwise is refused") {
  const Encrypted encrypted;
  for (const char* name : {"config", "config.copy"}) {
    const fs::path path = encrypted.root() / name;
    Json json = open_document("config", read_text(path, 1 << 20), name);
    json["encryption"] = "none";
    replace_file(path, seal_document("config", json));
  }
  CHECK_THROWS_AS(encrypted.open(), ConfigError);
}

TEST_CASE("no nonce is used twice under one key") {
  const Encrypted encrypted;
  std::set<std::string> salts;
  std::set<std::string> nonces;
  std::size_t records = 0;
  for (int session = 0; session < 2; ++session) {
    Repository repository = encrypted.open();
    const Bytes bytes = random_bytes(6 * small_chunks, static_cast<std::uint64_t>(session));
    static_cast<void>(commit(repository, "web1", write_whole(repository, bytes), write_stream(repository, bytes),
                             session == 0 ? "2026-11-23T08:20:11Z" : "2026-11-24T08:20:11Z"));
  }
  const std::shared_ptr<Store> store = open_store(encrypted.scratch.repository(), StoreAccess::read);
  const std::string id = encrypted.open().id();
  std::array<std::byte, 16> repository_id;
  REQUIRE(hex_to_bytes(id, repository_id));
  for (const ObjectInfo& object : store->list("packs")) {
    const PackId pack = *parse_pack_name(object.name);
    const std::string content = read_text(encrypted.root() / object.name, 64 << 20);
    for (const PackEntry& entry : read_pack_entries(*store, pack, repository_id).entries) {
      CHECK(entry.sealed);
      const std::string salt = content.substr(entry.offset + record_header_bytes, record_salt_bytes);
      salts.insert(salt);
      nonces.insert(salt + content.substr(entry.offset + record_header_bytes + record_salt_bytes, cipher_nonce_bytes));
      ++records;
    }
  }
  CHECK(records > 20);
  CHECK(nonces.size() == records);
  CHECK(salts.size() == 3);
}

TEST_CASE("nothing of the content can be seen") {
  const Encrypted encrypted;
  const Bytes secret = random_bytes(3 * small_chunks, 77);
  const std::string text(as_text(std::span(secret).subspan(1000, 24)));
  const auto store_secret = [&](Repository repository) {
    static_cast<void>(
        commit(repository, "web1", write_whole(repository, secret), std::nullopt, "2026-11-23T08:20:11Z"));
  };
  store_secret(encrypted.open());
  // The control: without encryption it is there to be seen.
  const Sample plain;
  store_secret(Repository(plain.scratch.repository(), Repository::Mode::write));
  std::size_t seen = 0;
  for (const fs::path& file : files_below(plain.root()))
    if (read_text(file, 64 << 20).find(text) != std::string::npos) ++seen;
  CHECK(seen == 1);
  const std::string xml = encrypted.manifest.domain_xml.substr(0, 12);
  REQUIRE(xml.size() == 12);
  std::uint64_t bytes = 0;
  for (const fs::path& file : files_below(encrypted.root())) {
    CAPTURE(file.native());
    const std::string content = read_text(file, 64 << 20);
    bytes += content.size();
    CHECK(content.find(text) == std::string::npos);
    CHECK(content.find(xml) == std::string::npos);
  }
  CHECK(bytes > 10000);
  // Nor by its names, which a list of well-known files would tell.
  const Encrypted other;
  CHECK(chunk_ids(encrypted) != chunk_ids(other));
}

TEST_CASE("whatever is changed is noticed, also with checksums that fit") {
  const Quiet quiet;
  const Encrypted encrypted;
  SUBCASE("a record's bytes, and its CRC") {
    const fs::path pack = only_file(encrypted.root() / "packs");
    std::string content = read_text(pack, 64 << 20);
    const auto header = std::as_writable_bytes(std::span(content)).subspan<pack_header_bytes, record_header_bytes>();
    std::optional<RecordHeader> decoded = decode_record_header(header);
    REQUIRE(decoded);
    CHECK(decoded->sealed);
    const auto stored =
        std::as_writable_bytes(std::span(content)).subspan(pack_header_bytes + record_header_bytes, decoded->stored);
    SUBCASE("ciphertext") {
      stored[sealed_overhead] ^= std::byte{1};
    }
    SUBCASE("salt") {
      stored[0] ^= std::byte{1};
    }
    SUBCASE("nonce") {
      stored[record_salt_bytes] ^= std::byte{1};
    }
    SUBCASE("tag") {
      stored.back() ^= std::byte{1};
    }
    SUBCASE("kind, which is no part of the ciphertext") {
      decoded->kind = decoded->kind == RecordKind::data ? RecordKind::node : RecordKind::data;
    }
    decoded->payload_crc = crc32c(stored);
    encode(*decoded, header);
    replace_file(pack, content);
    CHECK(encrypted.verify().damaged_chunks == 1);
  }
  SUBCASE("a manifest under another name") {
    const fs::path manifest = only_file(encrypted.root() / "manifests");
    fs::copy_file(manifest, manifest.parent_path() / "2026-11-25T08:20:11Z");
    CHECK_THROWS_AS(static_cast<void>(encrypted.open().load("web1@latest")), Corruption);
    CHECK(encrypted.verify().damaged.size() == 1);
  }
}

TEST_CASE("every flipped byte of an encrypted pack is found") {
  const Quiet quiet;
  const Encrypted encrypted;
  const fs::path pack = only_file(encrypted.root() / "packs");
  const std::uint64_t size = fs::file_size(pack);
  for (std::uint64_t offset = 0; offset < size; offset += 1 + size / 150) {
    CAPTURE(offset);
    flip(pack, offset, std::byte{4});
    VerifyOptions options;
    options.read_percent = 100;
    const VerifyResult result =
        Repository(encrypted.scratch.repository(), Repository::Mode::read, with(key_file('k'))).verify({}, options);
    const bool found = !result.damaged.empty() || !result.problems.empty();
    CHECK(found);
    flip(pack, offset, std::byte{4});
  }
  CHECK(encrypted.reads());
}

TEST_CASE("a key is kept twice, and verify tells when one of the two is damaged") {
  const Encrypted encrypted;
  const std::filesystem::path keys = encrypted.scratch.path() / "repository/keys";
  REQUIRE(files_below(keys).size() == 2);
  CHECK(encrypted.open().verify({}, {}).problems.empty());
  const auto verify = [&](Repository::Mode mode) {
    return Repository(encrypted.scratch.repository(), mode, with(key_file('k'))).verify({}, {}).problems.size();
  };
  for (const fs::path& object : files_below(keys)) {
    for (const bool gone : {false, true}) {
      flip(object, 100, std::byte{1});
      if (gone) fs::remove(object);
      CHECK(encrypted.open().keys().size() == 1);
      CHECK(verify(Repository::Mode::read) == 1);
      CHECK(verify(Repository::Mode::write) == 1);  // and mends it
      CHECK(verify(Repository::Mode::read) == 0);
    }
  }
  for (const fs::path& object : files_below(keys))
    flip(object, 100, std::byte{1});
  CHECK_THROWS_AS(encrypted.open(), ConfigError);
}

TEST_CASE("keys come and go, and no pack is touched") {
  const Encrypted encrypted;
  const fs::path pack = only_file(encrypted.root() / "packs");
  const auto written = fs::last_write_time(pack);
  KeySource passphrase;
  passphrase.passphrase = "correct horse";
  const std::string added = encrypted.open().add_key(passphrase, "the safe");
  const std::vector<KeyInfo> keys = encrypted.open(passphrase).keys();
  REQUIRE(keys.size() == 2);
  CHECK(std::ranges::count(keys, "the safe", &KeyInfo::label) == 1);
  CHECK(encrypted.reads(passphrase));
  const std::string first = std::ranges::find(keys, "key-file", &KeyInfo::kind)->id;
  encrypted.open(passphrase).remove_key(first);
  CHECK_THROWS_AS(encrypted.open(key_file('k')), ConfigError);
  CHECK(encrypted.reads(passphrase));
  CHECK_THROWS_AS(encrypted.open(passphrase).remove_key(added), UsageError);
  CHECK_THROWS_AS(encrypted.open(passphrase).remove_key(first), NotFound);
  CHECK(fs::last_write_time(pack) == written);
  KeySource empty;
  CHECK_THROWS_AS(encrypted.open(passphrase).add_key(empty, ""), ConfigError);
  KeySource short_file;
  short_file.key_file = "short";
  CHECK_THROWS_AS(encrypted.open(passphrase).add_key(short_file, ""), ConfigError);
}

TEST_CASE("whoever removes the last key, for his lock had ended, puts it back") {
  const Encrypted encrypted;
  const std::string first = encrypted.open().keys().at(0).id;
  KeySource passphrase;
  passphrase.passphrase = "correct horse";
  const std::string other = encrypted.open().add_key(passphrase, "");
  bool looked = false;
  const auto remove_other = [&](FaultyStore::Step step, std::uint64_t /*number*/) {
    if (step != FaultyStore::Step::change || !looked) return;
    for (const char* end : {"", ".copy"})
      fs::remove(encrypted.root() / "keys" / (other + end));
  };
  const auto store =
      std::make_shared<FaultyStore>(open_store(encrypted.scratch.repository(), StoreAccess::write), remove_other);
  Repository repository(store, Repository::Mode::write, with(key_file('k')));
  looked = true;
  CHECK_THROWS_AS(repository.remove_key(first), Locked);
  CHECK(encrypted.open().keys().size() == 1);
  CHECK(encrypted.reads());
  CHECK(encrypted.verify().problems.empty());
}

TEST_CASE("prune and rebuild work on what is encrypted") {
  const Encrypted encrypted;
  Repository repository = encrypted.open();
  Bytes disk(encrypted.disk.size());
  std::copy_n(encrypted.disk.begin(), small_chunks, disk.begin());
  const std::string name =
      commit(repository, "web1", write_whole(repository, disk), std::nullopt, "2026-11-23T08:20:11Z").name;
  repository.remove(encrypted.manifest.name);
  CHECK(repository.reclaim({}).bytes_rewritten > 0);
  CHECK(repository.rebuild_index() >= 1);
  CHECK((read_whole(repository, repository.load(name).disks.at(0).map) == disk));
  CHECK(encrypted.verify().damaged.empty());
}
