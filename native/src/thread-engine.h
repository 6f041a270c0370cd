// SPDX-License-Identifier: Apache-2.0
// The engine that works everywhere: each request occupies one task of a pool while it is in the kernel.
// A task is made when a request is queued and none is idle, up to a cap, so N stuck calls never hold up the N+1st;
// it ends after some idle seconds. Computations wait for a processor, not for storage: only as many run at once as there
// are processors, and I/O goes first. Who waits for a peer has a task beyond the cap: storage never waits for it. Also the part of RingEngine that does what a ring cannot.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

#include "codecs.h"
#include "completions.h"
#include "engine.h"
#include "streams.h"
#include "tasks.h"

namespace blockferry {

class ThreadEngine : public Engine {
 public:
  explicit ThreadEngine(size_t maxTasks);

  int start(int signalFd, std::function<void()> last) override;
  void submit(const std::vector<Request*>& requests) override;
  void reap(std::vector<Request*>& finished) override { completions_.take(finished); }
  int pass(int fd, uint64_t tag) override { return streams_.pass(fd, tag); }
  void shut(const std::shared_ptr<File>& file) override;
  void rouse(const std::shared_ptr<Lane>& lane) override;
  void endReading() override;
  void forget(uint32_t) override {}
  size_t tasks() override { return tasks_->count(); }
  void stop() override;

  // start() with more descriptors for the group to keep. `failed` leaves nothing behind, and errno says why.
  GroupKind startWith(int signalFd, std::vector<int> keep, std::function<void()> last);
  // RingEngine hands over a request, finishes one it performed itself, and runs its ring in the same group. Any thread.
  void submit(Request* request);
  // Returns the request to begin instead, where the finished one was a piece of more, or of a stream.
  Request* finish(Request* request);
  void runInGroup(std::function<void()> body, std::function<void()> refused) {
    tasks_->spawn(std::move(body), std::move(refused));
  }

 private:
  void serve();
  // These hold lock_.
  size_t ready() const;
  std::deque<Request*>& queueOf(const Request& request);
  Request* takeNext();
  void spawnRefused();

  const size_t maxTasks_;
  const size_t maxComputing_;
  Codecs codecs_;
  Streams streams_;
  std::shared_ptr<Tasks> tasks_ = std::make_shared<Tasks>();
  Completions completions_;

  std::mutex lock_;  // guards everything below; taken before the locks of Tasks and Codecs
  std::condition_variable queued_;
  std::deque<Request*> queue_;
  std::deque<Request*> atPeers_;       // queued ones that may wait for a peer
  std::deque<Request*> computations_;  // queued ones
  size_t computing_ = 0;               // running ones
  size_t withPeers_ = 0;               // running ones
  size_t servers_ = 0;  // tasks that serve the queue, those being made included
  size_t idle_ = 0;     // of these, waiting for work or on their way to it
  bool stopping_ = false;
};

}  // namespace blockferry
