// SPDX-License-Identifier: Apache-2.0
// What a file has for being used as a stream: in each direction a queue of requests, of which one is under way, and what
// wakes the task that waits in it. Part of File; nothing is open before somebody waits.
#pragma once

#include <cstdint>
#include <mutex>

#include "ending.h"
#include "packet-cut.h"
#include "unique-fd.h"

namespace blockferry {

struct Request;

enum class Direction : uint32_t { read, write };

// Bits of shutdownStream, same in native/streams.ts.
constexpr uint32_t kShutRead = 1;
constexpr uint32_t kShutWrite = 2;

class Stream {
 public:
  // Of ended().
  static constexpr int64_t kGoesOn = 1;

  // Any thread. True: nothing is under way in its direction, the request goes to a task. Else the task at work comes to it.
  bool enter(Request& request);
  // Any task, when the request under way has ended. The one to go on with; nullptr: nothing is under way now.
  Request* leave(Direction direction);

  // Any thread. kGoesOn, or what every request of this direction gets from now on: 0 at the end, or -errno.
  int64_t ended(Direction direction);
  // Any task. The first end counts.
  void end(Direction direction, int64_t how);

  // JS thread. Requests of these directions get -ECANCELED from now on; wake() must follow.
  void shut(uint32_t directions);
  // In the group. Wakes who waits in what was shut, and shuts the socket down where it is one.
  void wake(const UniqueFd& fd);
  // In the group, when nobody uses the stream any more. The descriptor, to be closed.
  int release(UniqueFd& fd);

  // Any task. Until the descriptor is ready; see Ending::wait(). Also ended by shut().
  int64_t wait(int fd, Direction direction, int timeoutMs, const Ending& ending);

  // Of a channel whose packets are received as such; its reading task only.
  PacketCut packets;

 private:
  struct Lane {
    bool busy = false;         // a request is under way
    Request* first = nullptr;  // of those that wait for it
    Request* last = nullptr;
    int64_t ended = kGoesOn;
    UniqueFd wake;  // made by the first who waits, in the group
  };

  Lane& lane(Direction direction) { return lanes_[static_cast<uint32_t>(direction)]; }
  void wakeLocked(int fd);
  // Whether this direction has ended. Whoever is told so finds it done: this may come before the call of wake().
  bool overLocked(int fd, Direction direction);

  std::mutex lock_;  // guards everything below, and that the descriptor is not closed in wake()
  Lane lanes_[2];
  uint32_t toShut_ = 0;
};

}  // namespace blockferry
