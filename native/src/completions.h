// SPDX-License-Identifier: Apache-2.0
// Finished requests on their way back to the JS thread. The eventfd is written only when the batch was empty.
#pragma once

#include <cerrno>
#include <mutex>
#include <vector>

#include "request.h"
#include "unique-fd.h"

namespace blockferry {

class Completions {
 public:
  // Start only. The descriptor is valid in the engine's thread group and closed there by close().
  void signalTo(int fd) { signal_ = UniqueFd(fd); }

  // Any task, no N-API. Signals without the lock: who is woken takes it at once.
  void push(Request* request) {
    {
      std::lock_guard guard(lock_);
      finished_.push_back(request);
      if (finished_.size() > 1) return;
    }
    if (!signal_.valid()) return;
    const uint64_t one = 1;
    // An eventfd whose counter is not near its limit takes this at once.
    while (::write(signal_.get(), &one, sizeof one) < 0 && errno == EINTR) continue;
  }

  // JS thread.
  void take(std::vector<Request*>& into) {
    std::lock_guard guard(lock_);
    into.insert(into.end(), finished_.begin(), finished_.end());
    finished_.clear();
  }

  // Leader, after every task has ended.
  void close() { signal_.reset(); }

  // JS thread, when the group has a table of descriptors of its own or never started.
  void disown() { signal_.release(); }

 private:
  UniqueFd signal_;  // set by signalTo(), then unchanged while tasks live
  std::mutex lock_;  // guards everything below
  std::vector<Request*> finished_;
};

}  // namespace blockferry
