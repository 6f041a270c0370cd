// SPDX-License-Identifier: Apache-2.0
// What performs requests: ThreadEngine everywhere, RingEngine where io_uring is allowed. Driven by IoFront.
// Every method is called on the JS thread and none of them waits for storage.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "request.h"

namespace blockferry {

class Engine {
 public:
  virtual ~Engine() = default;

  /**
   * @param signalFd  eventfd written when finished requests wait for reap(); the engine has its own copy afterwards
   * @param last      runs in the engine's thread group after all its tasks have ended; owns this engine and the requests
   * @returns 0 or -errno
   */
  virtual int start(int signalFd, std::function<void()> last) = 0;
  // The requests stay the caller's; they must live until they are reaped (those of a batch: the whole) or `last` has run.
  virtual void submit(const std::vector<Request*>& requests) = 0;
  // Adds what has finished since the last call.
  virtual void reap(std::vector<Request*>& finished) = 0;
  // Sends a descriptor of this process to the engine's group, for the adopt request with this tag. 0 or -errno.
  virtual int pass(int fd, uint64_t tag) = 0;
  // Something of the file was shut: who waits in it is woken.
  virtual void shut(const std::shared_ptr<File>& file) = 0;
  // Its task is woken, to see that it was called back.
  virtual void rouse(const std::shared_ptr<Lane>& lane) = 0;
  // Nobody waits any more for what peers send, or for connections.
  virtual void endReading() = 0;
  // A group of slots goes out of use.
  virtual void forget(uint32_t group) = 0;
  virtual size_t tasks() = 0;
  // Requests that have not started never will. Tasks end by themselves; nobody waits for them.
  virtual void stop() = 0;
};

std::unique_ptr<Engine> makeThreadEngine(size_t maxTasks);
// slotGroups: size of the table of registered buffers.
std::unique_ptr<Engine> makeRingEngine(size_t maxTasks, uint32_t slotGroups);

}  // namespace blockferry
