// SPDX-License-Identifier: Apache-2.0
// See thread-engine.h.
#include "thread-engine.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>

#include "verbs.h"

namespace blockferry {

namespace {
constexpr std::chrono::seconds kIdle{10};
}

int64_t nowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

// JS thread.
int ThreadEngine::start(int signalFd, std::function<void()> last) {
  return startWith(signalFd, {}, std::move(last)) == GroupKind::failed ? -EAGAIN : 0;
}

GroupKind ThreadEngine::startWith(int signalFd, std::vector<int> keep, std::function<void()> last) {
  const int copy = fcntl(signalFd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return GroupKind::failed;
  keep.push_back(copy);
  completions_.signalTo(copy);
  const GroupKind kind = tasks_->start(std::move(keep), [this, last = std::move(last)]() mutable {
    completions_.close();
    const auto final = std::move(last);
    final();
  });
  if (kind == GroupKind::plain) return kind;
  // The group has its own copy under this number (or there is no group): the one of the process goes.
  ::close(copy);
  if (kind == GroupKind::failed) completions_.disown();
  return kind;
}

void ThreadEngine::submit(Request* request) {
  std::lock_guard guard(lock_);
  queue_.push_back(request);
  if (queue_.size() > idle_ && servers_ < maxTasks_ && !stopping_) {
    ++servers_;
    ++idle_;
    tasks_->spawn([this] { serve(); }, [this] { spawnRefused(); });
  }
  queued_.notify_one();
}

void ThreadEngine::stop() {
  {
    std::lock_guard guard(lock_);
    stopping_ = true;
    queue_.clear();
    queued_.notify_all();
  }
  tasks_->stop();
}

// Any pool thread, no N-API.
void ThreadEngine::serve() {
  std::unique_lock guard(lock_);
  for (;;) {
    const bool woken = queued_.wait_for(guard, kIdle, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_ || !woken) break;
    Request* request = queue_.front();
    queue_.pop_front();
    --idle_;
    guard.unlock();
    perform(*request);
    completions_.push(request);
    guard.lock();
    ++idle_;
  }
  --servers_;
  --idle_;
}

// Leader: the system has no thread for us. Somebody else serves the queue, or nobody does and it fails.
void ThreadEngine::spawnRefused() {
  std::lock_guard guard(lock_);
  --servers_;
  --idle_;
  if (servers_ > 0) return;
  for (Request* request : queue_) {
    request->result = -EAGAIN;
    completions_.push(request);
  }
  queue_.clear();
}

std::unique_ptr<Engine> makeThreadEngine(size_t maxTasks) { return std::make_unique<ThreadEngine>(maxTasks); }

}  // namespace blockferry
