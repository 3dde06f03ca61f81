// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/fuse-mount.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "common/text.hh"
#include "host/capture/tree-metadata.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

namespace stillpoint {

namespace {

/// What never changes need not be asked for again.
constexpr double for_ever = 86400;
constexpr double for_now = 1;
constexpr unsigned answering_threads = 8;
constexpr unsigned kernel_ahead_kib = 1024;
constexpr std::size_t most_said = 1000;
constexpr std::size_t longest_said = 2000;
constexpr std::size_t most_xattr_bytes = 64 << 10;  ///< of a list, or of a value: XATTR_LIST_MAX, XATTR_SIZE_MAX

struct stat stat_of(const NodeAttributes& attributes) {
  struct stat status {};
  status.st_ino = attributes.inode;
  status.st_mode = type_bits(attributes.type) | (attributes.mode & 07777);
  status.st_nlink = attributes.links;
  status.st_uid = attributes.uid;
  status.st_gid = attributes.gid;
  status.st_rdev = ::makedev(attributes.device_major, attributes.device_minor);
  status.st_size = static_cast<off_t>(std::min<std::uint64_t>(attributes.size, INT64_MAX));
  status.st_blocks = static_cast<blkcnt_t>(attributes.blocks);
  status.st_blksize = 128 << 10;
  constexpr std::int64_t second = 1000000000;
  status.st_mtim.tv_sec = attributes.mtime_ns / second - (attributes.mtime_ns % second < 0 ? 1 : 0);
  status.st_mtim.tv_nsec = (attributes.mtime_ns % second + second) % second;
  status.st_atim = status.st_ctim = status.st_mtim;
  return status;
}

/// A chunk is damaged when it is first read, and missing from then on: it is one thing to say.
std::string without_reason(const std::string& text) {
  constexpr std::string_view before_id = ": chunk ";
  constexpr std::size_t id_digits = 64;
  const std::size_t at = text.rfind(before_id);
  return at == std::string::npos ? text : text.substr(0, at + before_id.size() + id_digits);
}

/// Says everything once: a damaged chunk is asked for again and again.
class SaidOnce {
 public:
  void say(const std::string& whole) {
    const std::string text = whole.substr(0, longest_said);
    {
      const std::scoped_lock lock(mutex_);
      if (said_.size() >= most_said || !said_.insert(without_reason(text)).second) return;
    }
    log_error("{}", text);
  }

 private:
  std::mutex mutex_;
  std::set<std::string> said_;
};

/// The nodes that the kernel knows, by the numbers that it knows them by.
class NodeTable {
 public:
  explicit NodeTable(MountNode::Shared root) {
    numbers_.emplace(root->identity(), FUSE_ROOT_ID);
    known_.emplace(FUSE_ROOT_ID, Known{std::move(root), 1});
  }

  /// Null for what it has forgotten.
  [[nodiscard]] MountNode::Shared find(fuse_ino_t number) {
    const std::scoped_lock lock(mutex_);
    const auto found = known_.find(number);
    return found == known_.end() ? nullptr : found->second.node;
  }

  /// The kernel learns of it once more.
  [[nodiscard]] fuse_ino_t remember(const MountNode::Shared& node) {
    const std::scoped_lock lock(mutex_);
    const auto [place, is_new] = numbers_.try_emplace(node->identity(), last_ + 1);
    if (is_new) {
      known_.emplace(place->second, Known{node, 0});
      ++last_;
    }
    ++known_.at(place->second).lookups;
    return place->second;
  }

  void forget(fuse_ino_t number, std::uint64_t count) {
    MountNode::Shared last;  // which ends after the lock is given back
    const std::scoped_lock lock(mutex_);
    const auto found = known_.find(number);
    if (found == known_.end() || number == FUSE_ROOT_ID) return;
    found->second.lookups -= std::min(count, found->second.lookups);
    if (found->second.lookups > 0) return;
    last = std::move(found->second.node);
    numbers_.erase(last->identity());
    known_.erase(found);
  }

 private:
  struct Known {
    MountNode::Shared node;
    std::uint64_t lookups;
  };
  struct IdentityHash {
    std::size_t operator()(const MountNode::Identity& identity) const noexcept {
      return std::hash<std::uint64_t>()(identity.place * 0x9e3779b97f4a7c15U ^ identity.number);
    }
  };
  std::mutex mutex_;
  std::unordered_map<fuse_ino_t, Known> known_;
  std::unordered_map<MountNode::Identity, fuse_ino_t, IdentityHash> numbers_;
  fuse_ino_t last_ = FUSE_ROOT_ID;
};

/// What the callbacks share.
struct Answering {
  explicit Answering(MountNode::Shared root) : nodes(std::move(root)) {}
  NodeTable nodes;
  SaidOnce said;
  bool allow_other = false;
};

Answering& answering(fuse_req_t request) {
  return *static_cast<Answering*>(fuse_req_userdata(request));
}

/// Calls `body`, which answers; what it throws becomes the answer.
template <typename Body>
void guarded(fuse_req_t request, const Body& body) noexcept {
  int error = EIO;
  try {
    body();
    return;
  } catch (const NotFound&) {
    error = ENOENT;
  } catch (const Interrupted&) {
    error = EINTR;
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  } catch (const std::system_error& failure) {
    error = failure.code().value();
  } catch (const std::exception& failure) {
    try {
      answering(request).said.say(failure.what());
    } catch (const std::exception&) {
      error = ENOMEM;
    }
  }
  fuse_reply_err(request, error);
}

[[noreturn]] void refuse(int error) {
  throw std::system_error(error, std::generic_category());
}

MountNode::Shared node_of(fuse_req_t request, fuse_ino_t number) {
  MountNode::Shared node = answering(request).nodes.find(number);
  if (!node) refuse(ESTALE);
  return node;
}

/// `lasting`: of the directory that it is in.
fuse_entry_param entry_of(const MountNode& directory, MountNode& node) {
  fuse_entry_param entry{};
  entry.attr = stat_of(node.attributes());
  entry.attr_timeout = node.lasting() ? for_ever : for_now;
  entry.entry_timeout = directory.lasting() ? for_ever : for_now;
  return entry;
}

void begin_answering(void* user, fuse_conn_info* connection) {
  if (static_cast<Answering*>(user)->allow_other) connection->want |= connection->capable & FUSE_CAP_POSIX_ACL;
}

void look_up(fuse_req_t request, fuse_ino_t parent, const char* name) {
  guarded(request, [&] {
    const MountNode::Shared directory = node_of(request, parent);
    const MountNode::Shared node = directory->child(name);
    fuse_entry_param entry{};
    if (node) {
      entry = entry_of(*directory, *node);
      entry.ino = answering(request).nodes.remember(node);
    } else {
      entry.entry_timeout = directory->lasting() ? for_ever : for_now;
    }
    if (fuse_reply_entry(request, &entry) != 0 && node) answering(request).nodes.forget(entry.ino, 1);
  });
}

void forget_one(fuse_req_t request, fuse_ino_t number, std::uint64_t count) {
  answering(request).nodes.forget(number, count);
  fuse_reply_none(request);
}

void forget_many(fuse_req_t request, std::size_t count, fuse_forget_data* forgotten) {
  for (const fuse_forget_data& each : std::span(forgotten, count))
    answering(request).nodes.forget(each.ino, each.nlookup);
  fuse_reply_none(request);
}

void get_attributes(fuse_req_t request, fuse_ino_t number, fuse_file_info* /*file*/) {
  guarded(request, [&] {
    const MountNode::Shared node = node_of(request, number);
    const struct stat status = stat_of(node->attributes());
    fuse_reply_attr(request, &status, node->lasting() ? for_ever : for_now);
  });
}

void read_link(fuse_req_t request, fuse_ino_t number) {
  guarded(request, [&] { fuse_reply_readlink(request, node_of(request, number)->target().c_str()); });
}

using OpenFile = std::shared_ptr<MountedFile>;

OpenFile& open_file_of(const fuse_file_info* file) {
  return *reinterpret_cast<OpenFile*>(file->fh);
}

void open_node(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  guarded(request, [&] {
    if ((file->flags & O_ACCMODE) != O_RDONLY) refuse(EROFS);
    auto opened = std::make_unique<OpenFile>(node_of(request, number)->open());
    file->fh = reinterpret_cast<std::uint64_t>(opened.get());
    file->keep_cache = 1;
    if (fuse_reply_open(request, file) == 0) static_cast<void>(opened.release());
  });
}

void close_node(fuse_req_t request, fuse_ino_t /*number*/, fuse_file_info* file) {
  const std::unique_ptr<OpenFile> closed(&open_file_of(file));
  fuse_reply_err(request, 0);
}

void read_node(fuse_req_t request, fuse_ino_t /*number*/, std::size_t size, off_t offset, fuse_file_info* file) {
  guarded(request, [&] {
    MountedFile& opened = *open_file_of(file);
    const auto from = static_cast<std::uint64_t>(offset);
    const std::size_t count = from >= opened.size() ? 0 : std::min<std::uint64_t>(size, opened.size() - from);
    std::vector<std::byte> bytes(count);
    if (count > 0) opened.read(bytes, from);
    fuse_reply_buf(request, reinterpret_cast<const char*>(bytes.data()), count);
  });
}

void seek_node(fuse_req_t request, fuse_ino_t /*number*/, off_t offset, int whence, fuse_file_info* file) {
  guarded(request, [&] {
    MountedFile& opened = *open_file_of(file);
    if (whence != SEEK_DATA && whence != SEEK_HOLE) refuse(EINVAL);
    const auto from = static_cast<std::uint64_t>(offset);
    if (offset < 0 || from >= opened.size()) refuse(ENXIO);
    const std::uint64_t found = opened.next(from, whence == SEEK_DATA);
    if (whence == SEEK_DATA && found >= opened.size()) refuse(ENXIO);
    fuse_reply_lseek(request, static_cast<off_t>(found));
  });
}

void open_directory_node(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  guarded(request, [&] {
    const MountNode::Shared node = node_of(request, number);
    file->cache_readdir = node->lasting() ? 1 : 0;
    file->keep_cache = file->cache_readdir;
    fuse_reply_open(request, file);
  });
}

/// Fills the kernel's buffer with entries: "." and ".." first.
class DirectoryAnswer {
 public:
  DirectoryAnswer(fuse_req_t request, MountNode& directory, std::size_t size, bool with_nodes)
      : request_(request), directory_(directory), bytes_(size), with_nodes_(with_nodes) {}

  void fill(std::size_t from) {
    const std::uint64_t inode = directory_.brief().inode;
    for (; from < 2; ++from)
      if (!add(from == 0 ? "." : "..", {EntryType::directory, inode}, from + 1)) return;
    try {
      directory_.list(from - 2, [this](const std::string& name, const MountNode::Brief& brief, std::size_t next) {
        return add(name, brief, next + 2);
      });
    } catch (const std::exception&) {
      // What there is of it first; the next question begins where it failed.
      if (used_ == 0) throw;
    }
  }
  void send() {
    if (fuse_reply_buf(request_, bytes_.data(), used_) == 0) return;
    for (const fuse_ino_t number : given_)
      answering(request_).nodes.forget(number, 1);
  }

 private:
  bool add(const std::string& name, const MountNode::Brief& brief, std::size_t next) {
    fuse_entry_param entry{};
    entry.attr.st_ino = brief.inode;
    entry.attr.st_mode = type_bits(brief.type);
    char* to = bytes_.data() + used_;
    const std::size_t left = bytes_.size() - used_;
    const auto offset = static_cast<off_t>(next);
    if (!with_nodes_) return take(fuse_add_direntry(request_, to, left, name.c_str(), &entry.attr, offset), left);
    // With no room for it the kernel does not learn of it.
    if (fuse_add_direntry_plus(request_, nullptr, 0, name.c_str(), &entry, offset) > left) return false;
    if (next > 2) describe(name, entry);
    return take(fuse_add_direntry_plus(request_, to, left, name.c_str(), &entry, offset), left);
  }

  /// As if it had been looked up too; what cannot be is a name alone.
  void describe(const std::string& name, fuse_entry_param& entry) {
    try {
      const MountNode::Shared node = directory_.child(name);
      if (!node) return;
      entry = entry_of(directory_, *node);
      entry.ino = answering(request_).nodes.remember(node);
      given_.push_back(entry.ino);
    } catch (const std::exception& failure) {
      answering(request_).said.say(failure.what());
    }
  }

  bool take(std::size_t size, std::size_t left) {
    if (size > left) return false;
    used_ += size;
    return true;
  }

  fuse_req_t request_;
  MountNode& directory_;
  std::vector<char> bytes_;
  std::size_t used_ = 0;
  bool with_nodes_;
  std::vector<fuse_ino_t> given_;
};

void read_directory_as(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t offset, bool with_nodes) {
  guarded(request, [&] {
    const MountNode::Shared directory = node_of(request, number);
    DirectoryAnswer answer(request, *directory, size, with_nodes);
    answer.fill(static_cast<std::size_t>(offset));
    answer.send();
  });
}

void read_directory(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t offset, fuse_file_info* /*file*/) {
  read_directory_as(request, number, size, offset, false);
}

void read_directory_plus(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t offset,
                         fuse_file_info* /*file*/) {
  read_directory_as(request, number, size, offset, true);
}

/// What getxattr(2) and listxattr(2) give: the value, or how long it is.
void reply_xattr(fuse_req_t request, const std::string& value, std::size_t size) {
  if (value.size() > most_xattr_bytes) refuse(E2BIG);
  if (size == 0)
    fuse_reply_xattr(request, value.size());
  else if (value.size() > size)
    refuse(ERANGE);
  else
    fuse_reply_buf(request, value.data(), value.size());
}

void get_xattr(fuse_req_t request, fuse_ino_t number, const char* name, std::size_t size) {
  guarded(request, [&] {
    for (const auto& [key, value] : node_of(request, number)->xattrs())
      if (key == name) return reply_xattr(request, value, size);
    refuse(ENODATA);
  });
}

void list_xattrs(fuse_req_t request, fuse_ino_t number, std::size_t size) {
  guarded(request, [&] {
    std::string names;
    for (const auto& [key, value] : node_of(request, number)->xattrs())
      names += key + '\0';
    reply_xattr(request, names, size);
  });
}

void get_space(fuse_req_t request, fuse_ino_t /*number*/) {
  struct statvfs space {};
  space.f_bsize = space.f_frsize = 4096;
  space.f_namemax = 255;
  fuse_reply_statfs(request, &space);
}

constexpr fuse_lowlevel_ops describe_operations() {
  fuse_lowlevel_ops operations{};
  operations.init = begin_answering;
  operations.lookup = look_up;
  operations.forget = forget_one;
  operations.forget_multi = forget_many;
  operations.getattr = get_attributes;
  operations.readlink = read_link;
  operations.open = open_node;
  operations.release = close_node;
  operations.read = read_node;
  operations.lseek = seek_node;
  operations.opendir = open_directory_node;
  operations.readdir = read_directory;
  operations.readdirplus = read_directory_plus;
  operations.getxattr = get_xattr;
  operations.listxattr = list_xattrs;
  operations.statfs = get_space;
  return operations;
}

constexpr fuse_lowlevel_ops operations = describe_operations();

/// libfuse writes what goes wrong; the last of it is the reason.
std::mutex fuse_text_mutex;
std::string fuse_text;

void take_fuse_text(fuse_log_level /*level*/, const char* format, va_list arguments) {
  std::array<char, 1024> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  const std::scoped_lock lock(fuse_text_mutex);
  fuse_text = line.data();
  while (fuse_text.ends_with('\n'))
    fuse_text.pop_back();
  log_debug("libfuse: {}", fuse_text);
}

ConfigError mount_error(const std::filesystem::path& directory) {
  const std::scoped_lock lock(fuse_text_mutex);
  const std::string message =
      fmt::format("cannot mount {}{}{}", printable(directory.native()), fuse_text.empty() ? "" : ": ", fuse_text);
  if (::access("/dev/fuse", F_OK) != 0)
    return ConfigError(message, "there is no /dev/fuse: load the kernel's module, with modprobe fuse");
  if (::geteuid() != 0)
    return ConfigError(message,
                       "others than root need the package fuse3, a directory of their own, and for "
                       "--allow-other user_allow_other in /etc/fuse.conf");
  return ConfigError(message);
}

/// The kernel reads 128 KiB ahead of a reader of FUSE, half a chunk. Root may tell it better; without, all is slower.
void read_further_ahead(const std::filesystem::path& directory) noexcept {
  try {
    std::ifstream mounts("/proc/self/mountinfo");
    std::string device;
    // Its number, its parent's, the device, the root, where it is mounted: the last one is the uppermost.
    for (std::string number, parent, that, root, place, rest; mounts >> number >> parent >> that >> root >> place;) {
      std::getline(mounts, rest);
      if (place == directory.native()) device = that;
    }
    if (!device.empty()) std::ofstream("/sys/class/bdi/" + device + "/read_ahead_kb") << kernel_ahead_kib << '\n';
  } catch (const std::exception& error) {
    log_debug("{}", error.what());
  }
}

}  // namespace

class FuseMount::Session {
 public:
  Session(MountNode::Shared root, const FuseOptions& options) : answering_(std::move(root)) {
    answering_.allow_other = options.allow_other;
    stopped_.reset(::eventfd(0, EFD_CLOEXEC));
    if (!stopped_) throw_errno("cannot make a descriptor to stop by");
    fuse_set_log_func(take_fuse_text);
    std::string source = options.source;
    std::ranges::replace_if(
        source, [](char c) { return c == ',' || c == '\\'; }, '_');
    std::string list = "ro,nosuid,nodev,subtype=stillpoint,fsname=" + source;
    // Whoever may mount may read all of it anyway: the guest's modes are for the others.
    if (options.allow_other) list += ",allow_other,default_permissions";
    std::array<std::string, 3> words{"stillpoint", "-o", list};
    std::array<char*, 4> pointers{words[0].data(), words[1].data(), words[2].data(), nullptr};
    fuse_args arguments = FUSE_ARGS_INIT(3, pointers.data());
    session_.reset(fuse_session_new(&arguments, &operations, sizeof operations, &answering_));
    fuse_opt_free_args(&arguments);
    if (!session_ || fuse_session_mount(session_.get(), options.directory.c_str()) != 0)
      throw mount_error(options.directory);
    read_further_ahead(options.directory);
    // Several threads wait for the same descriptor, and for the end.
    const int fd = fuse_session_fd(session_.get());
    if (::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) log_warning("{}", errno_message("cannot set up /dev/fuse", errno));
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { fuse_session_unmount(session_.get()); }

  void serve(const std::stop_token& stop) {
    const std::stop_callback wake(stop, [this] { ::eventfd_write(stopped_.get(), 1); });
    std::vector<std::jthread> others;
    for (unsigned i = 1; i < answering_threads; ++i)
      others.emplace_back([this] { answer(); });
    answer();
  }

 private:
  void answer() noexcept {
    fuse_buf request{};
    const int fd = fuse_session_fd(session_.get());
    while (fuse_session_exited(session_.get()) == 0) {
      std::array<pollfd, 2> events{{{fd, POLLIN, 0}, {stopped_.get(), POLLIN, 0}}};
      if (::poll(events.data(), events.size(), -1) < 0) continue;  // EINTR
      if (events[1].revents != 0) break;
      const int length = fuse_session_receive_buf(session_.get(), &request);
      if (length == -EINTR || length == -EAGAIN) continue;
      if (length <= 0) break;
      fuse_session_process_buf(session_.get(), &request);
    }
    std::free(request.mem);
  }

  Answering answering_;
  UniqueFd stopped_;
  struct Destroy {
    void operator()(fuse_session* session) const noexcept { fuse_session_destroy(session); }
  };
  std::unique_ptr<fuse_session, Destroy> session_;
};

FuseMount::FuseMount(MountNode::Shared root, const FuseOptions& options)
    : session_(std::make_unique<Session>(std::move(root), options)) {}

FuseMount::~FuseMount() = default;

void FuseMount::serve(const std::stop_token& stop) {
  session_->serve(stop);
}

}  // namespace stillpoint
