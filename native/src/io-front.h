// SPDX-License-Identifier: Apache-2.0
// Between the binding and an engine: owns requests and files, keeps the limits, orders close after what uses the file.
// JS thread only, until stop(); after that only the leader's last act (dropAll) touches requests and files.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine.h"
#include "request.h"

namespace blockferry {

struct Limits {
  size_t maxRequests;
  int64_t maxBytes;
};

struct Oldest {
  Op op;
  double fileId;
  int64_t ageMs;
};

class IoFront : public std::enable_shared_from_this<IoFront> {
 public:
  IoFront(std::unique_ptr<Engine> engine, Limits limits) : engine_(std::move(engine)), limits_(limits) {}
  // The count of references orders this after dropAll(). Its code may be node's own copy, which ThreadSanitizer does not see.
  ~IoFront() { dropped_.load(std::memory_order_acquire); }

  // 0 or -errno.
  int start(int signalFd);
  // Takes the request over. 0, or -errno when it is refused and will not be reaped.
  int submit(std::unique_ptr<Request> request);
  // What has finished; starts what waited for it.
  std::vector<std::unique_ptr<Request>> reap();
  void forget(uint32_t group) {
    if (!stopped_) engine_->forget(group);
  }
  // Ends directions of a stream, also of one whose close waits for its requests.
  void shutStream(double fileId, uint32_t directions);
  // A lane gives back what was lent to it, soon.
  void callBack(const std::shared_ptr<Lane>& lane, bool redo);
  // Nobody waits any more for what peers send.
  void endReading() {
    if (!stopped_) engine_->endReading();
  }
  void stop();
  // From hold() to release() requests are gathered and go to the engine together: one wake-up, and one look of the
  // kernel at all of them.
  void hold() { held_ = true; }
  void release();

  std::optional<Oldest> oldest() const;
  size_t requests() const { return inFlight_.size() + waiting_.size() + closing_.size() + unsent_.size(); }
  int64_t bytes() const { return bytes_; }
  size_t tasks() { return stopped_ ? 0 : engine_->tasks(); }

 private:
  bool resolveFiles(Request& request);
  int adopt(std::unique_ptr<Request> request);
  void sendWaiting();
  bool admissible(const Request& request) const;
  void admitWaiting();
  void settle(Request& request);
  void begin(std::unique_ptr<Request> request);
  void queue(std::unique_ptr<Request> request);
  void dropAll();

  const std::unique_ptr<Engine> engine_;
  const Limits limits_;
  bool stopped_ = false;
  std::atomic<bool> dropped_{false};
  bool held_ = false;
  int64_t bytes_ = 0;
  double nextFileId_ = 1;
  std::unordered_map<double, std::shared_ptr<File>> files_;
  std::unordered_map<Request*, std::unique_ptr<Request>> inFlight_;
  size_t atPeers_ = 0;  // of inFlight_, those that may wait for a peer: no limit counts them
  std::deque<std::unique_ptr<Request>> waiting_;
  // Closes held back until the requests on their file have finished.
  std::unordered_map<File*, std::unique_ptr<Request>> closing_;
  // Descriptors on their way to the group, and adopts held back until some of these have arrived.
  size_t underway_ = 0;
  uint64_t nextTag_ = 1;
  std::deque<std::unique_ptr<Request>> unsent_;
};

}  // namespace blockferry
