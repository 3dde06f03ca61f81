// SPDX-License-Identifier: LGPL-2.1-or-later
// What a client may say to the store's server, who also serves hypervisors that somebody has broken into: whatever they
// ask for, nothing beside the repository is made, changed or gone.
#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/little-endian.hh"
#include "host/repository/store-server.hh"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

using namespace stillpoint;
namespace fs = std::filesystem;

namespace {

constexpr std::string_view secret = "not in the repository";
constexpr char between = '\xff';
/// In a message: the path of the repository, which no fuzzer guesses.
constexpr std::string_view here = "@";

/// A directory with a file that is nobody's business, and beside it a repository's.
struct Place {
  Place() {
    std::string path = fs::exists("/dev/shm") ? "/dev/shm/store-requests-XXXXXX" : "/tmp/store-requests-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    root = path;
    replace_file(root / "secret", secret, 0600);
    repository = root / "r";
  }
  ~Place() { fs::remove_all(root); }

  void make_anew() const {
    fs::remove_all(repository);
    fs::create_directories(repository / "packs/00");
    fs::create_directories(repository / "locks");
    fs::create_directories(repository / "trees");
    fs::create_symlink(root / "secret", repository / "trees/link");
    replace_file(repository / "config", "a configuration", 0600);
    replace_file(repository / "packs/00/00112233445566778899aabbccddeeff", "a pack", 0600);
  }

  void check() const {
    std::set<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(root))
      names.insert(entry.path().filename());
    if (names != std::set<std::string>{"r", "secret"}) std::abort();
    if (read_text(root / "secret", 100) != secret) std::abort();
  }

  fs::path root;
  fs::path repository;
};

/// Messages as the wire has them, of heads, line feeds and bodies.
std::string messages_of(std::string_view input, const std::string& path) {
  std::string all;
  while (!input.empty()) {
    const std::string_view part = input.substr(0, input.find(between));
    input.remove_prefix(std::min(part.size() + 1, input.size()));
    std::string head(part.substr(0, part.find('\n')));
    const std::string_view body = part.substr(std::min(head.size() + 1, part.size()));
    if (const std::size_t at = head.find(here); at != std::string::npos) head.replace(at, here.size(), path);
    std::array<std::byte, 8> prefix{};
    put_le<std::uint32_t>(prefix.data(), static_cast<std::uint32_t>(head.size()));
    put_le<std::uint32_t>(prefix.data() + 4, static_cast<std::uint32_t>(body.size()));
    for (const std::byte byte : prefix)
      all.push_back(static_cast<char>(byte));
    all.append(head).append(body);
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Place place;
  static unsigned runs = 0;
  if (size == 0) return 0;
  if (runs++ % 64 == 0) place.make_anew();
  std::string input(size - 1, '\0');
  std::copy(data + 1, data + size, input.begin());
  const UniqueFd in(::memfd_create("in", MFD_CLOEXEC));
  const UniqueFd out(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (!in || !out) std::abort();
  const bool as_it_is = (data[0] & 1) != 0;
  write_all(in.get(), as_bytes(as_it_is ? input : messages_of(input, place.repository.native())), "the input");
  if (::lseek(in.get(), 0, SEEK_SET) != 0) std::abort();
  StoreServerOptions options{place.repository, (data[0] & 2) != 0, {}};
  if ((data[0] & 4) != 0) options.domains = {"web*"};
  try {
    serve_store(in.get(), out.get(), options, {});
  } catch (const Error&) {
  }
  place.check();
  return 0;
}
