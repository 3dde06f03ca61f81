// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command-line.hh"
#include "host/commands/command.hh"
#include "host/guest/thaw-guard.hh"

#include <array>
#include <string_view>

namespace {

constexpr std::array verbs{
    stillpoint::Verb{"init", "make a repository", stillpoint::add_init},
    stillpoint::Verb{"backup", "take a still point of a domain", stillpoint::add_backup},
    stillpoint::Verb{"list", "list still points", stillpoint::add_list},
    stillpoint::Verb{"show", "show everything that is known of a still point", stillpoint::add_show},
    stillpoint::Verb{"restore", "write a disk into a new image", stillpoint::add_restore},
    stillpoint::Verb{"replicate", "keep the disks of still points in another Ceph pool, ready to boot",
                     stillpoint::add_replicate},
    stillpoint::Verb{"dump", "list the database dumps of a still point, or read one", stillpoint::add_dump},
    stillpoint::Verb{"files", "list, read and copy files of a still point", stillpoint::add_files},
    stillpoint::Verb{"mount", "show disks, files and dumps as a directory, without restoring them",
                     stillpoint::add_mount},
    stillpoint::Verb{"serve", "serve a disk by NBD, without restoring it", stillpoint::add_serve},
    stillpoint::Verb{"boot", "start a new domain on a still point, without restoring it", stillpoint::add_boot},
    stillpoint::Verb{"drill", "boot a still point isolated, and compare its databases with their dumps",
                     stillpoint::add_drill},
    stillpoint::Verb{"verify", "check that what is stored can be given back", stillpoint::add_verify},
    stillpoint::Verb{"prune", "delete old still points by rules, and reclaim space", stillpoint::add_prune},
    stillpoint::Verb{"delete", "delete still points by name", stillpoint::add_delete},
    stillpoint::Verb{"protect", "keep still points from being deleted", stillpoint::add_protect},
    stillpoint::Verb{"unprotect", "let still points be deleted again", stillpoint::add_unprotect},
    stillpoint::Verb{"key", "list, add and remove the keys of an encrypted repository", stillpoint::add_key},
    stillpoint::Verb{"index", "read the packs anew to find their chunks", stillpoint::add_index},
    stillpoint::Verb{"store", "serve a repository's directory to another machine, over ssh", stillpoint::add_store},
    stillpoint::Verb{"quiesce-watch", "freeze a guest for every snapshot that somebody takes of its RBD images",
                     stillpoint::add_quiesce_watch},
    stillpoint::Verb{"thaw", "thaw a guest that somebody left frozen", stillpoint::add_thaw},
};

}  // namespace

int main(int argc, char** argv) {
  // The guard that thaws a guest when its parent dies is this program again; nothing else may run before it.
  if (argc > 1 && argv[1] == stillpoint::thaw_guard_verb) return stillpoint::thaw_guard_main(argc, argv);
  return stillpoint::run_command_line(argc, argv, verbs);
}
