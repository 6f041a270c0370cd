// SPDX-License-Identifier: Apache-2.0
// An end that is coming, as tasks see it that wait for a peer. Used by Streams for the end of the engine.
// Once announced it stays: every wait ends at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "unique-fd.h"

namespace blockferry {

class Ending {
 public:
  // JS thread, before the group starts. Adds the descriptor the group must keep. 0 or -errno.
  int open(std::vector<int>& keep);
  // JS thread, when the group has a table of its own and so a copy of it, which this object then stands for.
  void disown() { ::close(event_.get()); }
  // JS thread. What looks sees it now; who waits already is woken by wakeAll().
  void announce() { begun_.store(true); }
  // Leader: in the group, where the descriptor lives.
  void wakeAll();
  // Leader, after every task has ended.
  void close() { event_.reset(); }

  // Any thread.
  bool begun() const { return begun_.load(); }
  /**
   * Any task. Waits until `fd` is ready for `events`.
   * @param timeoutMs  -1: for ever
   * @param wake       another descriptor that ends the wait when it can be read; -1: none
   * @returns 1 ready (or broken: the next call tells), 0 when the time is over, -ECANCELED, or another -errno
   */
  int64_t wait(int fd, short events, int timeoutMs, int wake) const;

 private:
  UniqueFd event_;  // set by open(), then unchanged while tasks live
  std::atomic<bool> begun_{false};
};

}  // namespace blockferry
