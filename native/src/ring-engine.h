// SPDX-License-Identifier: Apache-2.0
// The engine for kernels that let us use io_uring: one task owns a ring, everything a ring cannot do without waiting
// goes to the thread engine it contains.
// In the ring: aligned reads and writes of O_DIRECT files whose file system does not wait in submission (NOWAIT).
// What comes back short, or asks to be tried again, is done anew by a thread, which also settles what it means.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "ring.h"
#include "thread-engine.h"

namespace blockferry {

class RingEngine : public Engine {
 public:
  RingEngine(size_t maxTasks, uint32_t slotGroups) : pool_(maxTasks), registered_(slotGroups) {}

  int start(int signalFd, std::function<void()> last) override;
  void submit(const std::vector<Request*>& requests) override;
  void reap(std::vector<Request*>& finished) override { pool_.reap(finished); }
  int pass(int fd, uint64_t tag) override { return pool_.pass(fd, tag); }
  void shut(const std::shared_ptr<File>& file) override { pool_.shut(file); }
  void rouse(const std::shared_ptr<Lane>& lane) override { pool_.rouse(lane); }
  void endReading() override { pool_.endReading(); }
  void forget(uint32_t group) override;
  size_t tasks() override { return pool_.tasks(); }
  void stop() override;

 private:
  struct Registered {
    std::shared_ptr<SlotGroup> memory;  // kept mapped while the kernel has it
    bool refused = false;
  };

  // JS thread
  bool rouse();
  void wake();
  // The ring's task
  void serve();
  void submitByParts();
  void reap();
  bool takeQueued();
  bool fallAsleep(bool stopping);
  void prepare(Request* request);
  void prepareWake();
  void complete(Request* request, int result);
  bool isRegistered(const std::shared_ptr<SlotGroup>& memory);
  void unregister(uint32_t group);
  // The ring's task, or the leader where there is none
  void giveUp();

  ThreadEngine pool_;
  UniqueFd wakeFd_;  // JS thread's end; closed by stop(), in the table it lives in

  // Set by start(), then the ring's task only.
  Ring ring_;
  UniqueFd wakened_;  // the task's copy of wakeFd_
  uint64_t wakeCount_ = 0;
  bool wakeArmed_ = false;
  bool hasTable_ = false;
  std::vector<Registered> registered_;
  std::deque<Request*> backlog_;  // more than the ring holds
  uint32_t inRing_ = 0;

  std::mutex lock_;  // guards everything below; taken before the pool's own lock
  std::vector<Request*> queue_;
  std::vector<uint32_t> forgotten_;
  bool asleep_ = false;  // the task waits in the ring, and nobody has woken it
  bool stopping_ = false;
  bool gaveUp_ = false;  // no ring after all: the pool does everything
};

}  // namespace blockferry
