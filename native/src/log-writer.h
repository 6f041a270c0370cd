// SPDX-License-Identifier: Apache-2.0
// Writes log lines to a descriptor from a task of its own, so that a reader that has stopped stops nobody.
// Any thread may write; the descriptor's flags are left alone (O_NONBLOCK would be seen by everyone who shares it).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "unique-fd.h"

namespace blockferry {

class LogWriter : public std::enable_shared_from_this<LogWriter> {
 public:
  explicit LogWriter(size_t room) : room_(room) {}

  // 0 or -errno. The descriptor stays the caller's; the task has a copy.
  int start(int fd);
  // False: no room, the text is dropped and counted. Never waits.
  bool write(const std::string& text);
  // Waits until everything is written, or not longer than `wait`. Whether it is.
  bool flush(std::chrono::milliseconds wait);
  // The task ends when it has written what is queued.
  void stop();
  // Texts dropped so far.
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  void serve(int fd);

  const size_t room_;
  UniqueFd copy_;  // of the process, where the task has no table of descriptors of its own
  std::atomic<uint64_t> dropped_{0};

  std::mutex lock_;  // guards everything below
  std::condition_variable changed_;
  std::string queue_;
  size_t writing_ = 0;
  bool stopping_ = false;
};

}  // namespace blockferry
