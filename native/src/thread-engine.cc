// SPDX-License-Identifier: Apache-2.0
// See thread-engine.h.
#include "thread-engine.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "batch.h"
#include "lane.h"
#include "verbs.h"

namespace blockferry {

namespace {
constexpr std::chrono::seconds kIdle{10};
}

ThreadEngine::ThreadEngine(size_t maxTasks)
    : maxTasks_(maxTasks), maxComputing_(std::max(1U, std::thread::hardware_concurrency())) {}

// JS thread.
int ThreadEngine::start(int signalFd, std::function<void()> last) {
  return startWith(signalFd, {}, std::move(last)) == GroupKind::failed ? -errno : 0;
}

GroupKind ThreadEngine::startWith(int signalFd, std::vector<int> keep, std::function<void()> last) {
  const int copy = fcntl(signalFd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return GroupKind::failed;
  keep.push_back(copy);
  if (const int error = streams_.open(keep); error < 0) {
    ::close(copy);
    errno = -error;
    return GroupKind::failed;
  }
  completions_.signalTo(copy);
  const GroupKind kind = tasks_->start(std::move(keep), [this, last = std::move(last)]() mutable {
    completions_.close();
    streams_.close();
    const auto final = std::move(last);
    final();
  });
  streams_.started(kind);
  if (kind == GroupKind::plain) return kind;
  // The group has its own copy under this number (or there is no group): the one of the process goes.
  ::close(copy);
  if (kind == GroupKind::failed) {
    completions_.disown();
    errno = EAGAIN;
  }
  return kind;
}

void ThreadEngine::submit(const std::vector<Request*>& requests) {
  for (Request* request : requests) submit(request);
}

void ThreadEngine::submit(Request* request) {
  if (request->isStreamed() && !request->stream()->stream.enter(*request)) return;
  {
    std::lock_guard guard(lock_);
    queueOf(*request).push_back(request);
    if (ready() > idle_ && servers_ < maxTasks_ + atPeers_.size() + withPeers_ && !stopping_) {
      ++servers_;
      ++idle_;
      tasks_->spawn([this] { serve(); }, [this] { spawnRefused(); });
    }
  }
  // Not under the lock: whoever is woken would wait for it first.
  queued_.notify_one();
}

Request* ThreadEngine::finish(Request* request) {
  if (request->isStreamed()) {
    // Once it is told, it and its file may be gone.
    const std::shared_ptr<File> file = request->stream();
    const Direction direction = request->direction();
    completions_.push(request);
    return file->stream.leave(direction);
  }
  if (request->batch == nullptr) {
    completions_.push(request);
    return nullptr;
  }
  const Batch::After after = request->batch->ended(*request);
  if (after.whole != nullptr) completions_.push(after.whole);
  return after.next;
}

// JS thread. The leader does it, in whose table the descriptors are; it waits for nothing else.
void ThreadEngine::shut(const std::shared_ptr<File>& file) {
  tasks_->tell([file] { file->stream.wake(file->fd); });
}

void ThreadEngine::rouse(const std::shared_ptr<Lane>& lane) {
  tasks_->tell([lane] { lane->wake(); });
}

void ThreadEngine::endReading() {
  streams_.endReading();
  tasks_->tell([this] { streams_.wakeReaders(); });
}

void ThreadEngine::stop() {
  streams_.stop();
  {
    std::lock_guard guard(lock_);
    stopping_ = true;
    queue_.clear();
    atPeers_.clear();
    computations_.clear();
    queued_.notify_all();
  }
  tasks_->tell([this] { streams_.wakeAll(); });
  tasks_->stop();
}

std::deque<Request*>& ThreadEngine::queueOf(const Request& request) {
  if (request.waitsForPeer()) return atPeers_;
  return request.isComputation() ? computations_ : queue_;
}

// What a task may take now.
size_t ThreadEngine::ready() const {
  return atPeers_.size() + queue_.size() + std::min(computations_.size(), maxComputing_ - computing_);
}

Request* ThreadEngine::takeNext() {
  auto& queue = !atPeers_.empty() ? atPeers_ : queue_.empty() ? computations_ : queue_;
  Request* request = queue.front();
  queue.pop_front();
  return request;
}

// Any pool thread, no N-API. A task that ends a computation makes room for another and looks for it itself, so
// ready() never exceeds the tasks that are awake or were told.
void ThreadEngine::serve() {
  std::unique_lock guard(lock_);
  for (;;) {
    const bool woken = queued_.wait_for(guard, kIdle, [&] { return stopping_ || ready() > 0; });
    if (!woken) codecs_.dropIdle();
    if (stopping_ || !woken) break;
    Request* request = takeNext();
    const bool computation = request->isComputation();
    const bool waits = request->waitsForPeer();
    if (computation) ++computing_;
    if (waits) ++withPeers_;
    --idle_;
    guard.unlock();
    while (request != nullptr) {
      if (computation) codecs_.perform(*request);
      else if (Streams::does(*request)) streams_.perform(*request);
      else perform(*request);
      request = finish(request);
    }
    guard.lock();
    ++idle_;
    if (computation) --computing_;
    if (waits) --withPeers_;
  }
  --servers_;
  --idle_;
}

// Leader: the system has no thread for us. Somebody else serves the queue, or nobody does and it fails.
void ThreadEngine::spawnRefused() {
  std::lock_guard guard(lock_);
  --servers_;
  --idle_;
  if (servers_ > withPeers_) return;
  for (auto* queue : {&atPeers_, &queue_, &computations_}) {
    for (Request* request : *queue) {
      // Of a batch that fails nothing more is begun; of a stream everything fails.
      for (; request != nullptr; request = finish(request)) request->result = -EAGAIN;
    }
    queue->clear();
  }
}

std::unique_ptr<Engine> makeThreadEngine(size_t maxTasks) { return std::make_unique<ThreadEngine>(maxTasks); }

}  // namespace blockferry
