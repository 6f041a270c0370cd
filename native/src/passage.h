// SPDX-License-Identifier: Apache-2.0
// The way of descriptors from the process into the engine's thread group, whose table is another: a pair of sockets, one
// end on each side. Used by Streams.
//
//     JS thread   send(fd, tag) ──SCM_RIGHTS──▶ the group's end   receive(tag)   any task
//
// What was sent and is not received yet belongs to the socket, and ends with the group's end of it.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "unique-fd.h"

namespace blockferry {

class Passage {
 public:
  // JS thread, before the group starts. 0 or -errno.
  int open();
  // JS thread. The descriptor the group keeps.
  int groupEnd() const { return theirs_.get(); }
  // JS thread, when the group has a table of its own and so a copy of that end, which this object then stands for.
  void disown() { ::close(theirs_.get()); }
  // JS thread. Sends a copy, without waiting. 0 or -errno.
  int send(int fd, uint64_t tag);
  // JS thread. Nothing more is sent.
  void stop() { ours_.reset(); }

  // Any task. 0 and the descriptor that was sent with this tag, or -errno. What comes for others is kept for them.
  int64_t receive(uint64_t tag, UniqueFd& fd);
  // Leader, after every task has ended.
  void close();

 private:
  int64_t takeNext(uint64_t& tag, UniqueFd& fd);

  UniqueFd ours_;    // JS thread
  UniqueFd theirs_;  // set by open(), then unchanged while tasks live

  std::mutex lock_;  // guards everything below, and who reads from the socket
  std::unordered_map<uint64_t, UniqueFd> arrived_;  // by tag; not valid where the system had no room for it
};

}  // namespace blockferry
