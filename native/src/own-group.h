// SPDX-License-Identifier: Apache-2.0
// Runs code in a thread group of its own that shares this process's memory. Used by Tasks and LogWriter.
//
// Why: exit_group waits for every thread of its group, and a thread that is stuck in a FUSE or NFS call cannot be
// killed, so a daemon with one such thread does not end. A task cloned with CLONE_VM but without CLONE_THREAD belongs
// to another group: the daemon ends at once, the stuck task ends by PR_SET_PDEATHSIG when its call returns.
//
//     ordinary thread ("host")           own group: leader ── threads it creates with pthread_create
//     waitpid(leader) … parked           has its own table of descriptors, blocks every signal
//
// The host stays parked in the kernel as long as the leader lives, so the leader uses the host's thread-local storage
// (it inherits the thread pointer) and the C library works in it: errno, malloc, mutexes, thread creation.
// The table of descriptors is a copy of its own: when the daemon ends, a stuck call keeps no socket or pipe open.
#pragma once

#include <functional>
#include <vector>

namespace blockferry {

enum class GroupKind {
  own,     // own group, own table of descriptors
  plain,   // clone was refused, or a sanitizer build: an ordinary thread with the table of the process
  failed,  // nothing was started
};

/**
 * Starts `body` on the leader of a new group. Any thread; waits only until the table of descriptors was copied.
 * @param keep  descriptors the group gets copies of, under the same numbers; every other one is closed there
 * @param body  runs on the leader and is destroyed there; threads it creates must have ended when it returns
 */
GroupKind startOwnGroup(std::vector<int> keep, std::function<void()> body);

}  // namespace blockferry
