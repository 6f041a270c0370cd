// SPDX-License-Identifier: Apache-2.0
// The tasks of one engine: threads in a group of their own, created on demand. Used by ThreadEngine and RingEngine.
// Rule: what a task uses stays alive until the task has ended; stop() never waits for it.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "own-group.h"

namespace blockferry {

class Tasks : public std::enable_shared_from_this<Tasks> {
 public:
  /**
   * Any thread. Starts the leader, which creates the tasks.
   * @param last  runs on the leader after every task has ended, also when that is long after stop(); closes what
   *              they opened. Owns what the tasks use.
   */
  GroupKind start(std::vector<int> keep, std::function<void()> last);

  /**
   * Any thread. Asks the leader for a task that runs `body`.
   * @param refused  runs on the leader instead when the system gives no thread
   */
  void spawn(std::function<void()> body, std::function<void()> refused);

  // Any thread. The leader runs `what` soon: for what must be done in the group and can wait for nothing. Not after stop().
  void tell(std::function<void()> what);

  // Any thread. No more tasks; the leader ends with the last of them. The bodies are told by their owner.
  void stop();

  // Any thread. Tasks alive or being made.
  size_t count();

 private:
  struct Task {
    Tasks* owner;
    pthread_t thread{};
    std::function<void()> body;
    std::function<void()> refused;
  };

  void lead();
  bool create(std::unique_ptr<Task> task);
  static void* run(void* task);

  std::mutex lock_;  // guards everything below
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Task>> asked_;
  std::vector<std::unique_ptr<Task>> ended_;  // to be joined by the leader
  std::vector<std::function<void()>> told_;
  size_t alive_ = 0;
  bool stopping_ = false;
};

}  // namespace blockferry
