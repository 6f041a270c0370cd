// SPDX-License-Identifier: Apache-2.0
// See tasks.h.
#include "tasks.h"

#include <sys/prctl.h>

#include <utility>

namespace blockferry {

namespace {
constexpr size_t kTaskStackBytes = 256 * 1024;
}

GroupKind Tasks::start(std::vector<int> keep, std::function<void()> last) {
  auto self = shared_from_this();
  return startOwnGroup(std::move(keep), [self, last = std::move(last)] {
    self->lead();
    last();
  });
}

void Tasks::spawn(std::function<void()> body, std::function<void()> refused) {
  auto task = std::make_unique<Task>();
  task->owner = this;
  task->body = std::move(body);
  task->refused = std::move(refused);
  std::lock_guard guard(lock_);
  asked_.push_back(std::move(task));
  ++alive_;
  changed_.notify_one();
}

void Tasks::tell(std::function<void()> what) {
  std::lock_guard guard(lock_);
  told_.push_back(std::move(what));
  changed_.notify_one();
}

void Tasks::stop() {
  std::lock_guard guard(lock_);
  stopping_ = true;
  changed_.notify_one();
}

size_t Tasks::count() {
  std::lock_guard guard(lock_);
  return alive_;
}

// Leader. Signals are blocked in it and so in every task.
void Tasks::lead() {
  std::unique_lock guard(lock_);
  for (;;) {
    const auto work = [&] { return !asked_.empty() || !ended_.empty() || !told_.empty(); };
    changed_.wait(guard, [&] { return work() || (stopping_ && alive_ == 0); });
    if (!work()) return;
    const auto told = std::exchange(told_, {});
    auto asked = std::exchange(asked_, {});
    auto ended = std::exchange(ended_, {});
    guard.unlock();
    for (const auto& what : told) what();
    for (auto& task : ended) pthread_join(task->thread, nullptr);
    size_t gone = ended.size();
    for (auto& task : asked) {
      if (!create(std::move(task))) ++gone;
    }
    guard.lock();
    alive_ -= gone;
  }
}

// Leader.
bool Tasks::create(std::unique_ptr<Task> task) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
#ifndef BLOCKFERRY_PLAIN_THREADS
  pthread_attr_setstacksize(&attributes, kTaskStackBytes);
#endif
  Task* given = task.release();
  pthread_t thread;
  // given->thread is set by the task itself: it may have ended before pthread_create returns here
  const int error = pthread_create(&thread, &attributes, run, given);
  pthread_attr_destroy(&attributes);
  if (error == 0) return true;
  const std::unique_ptr<Task> back(given);
  back->refused();
  return false;
}

// The task.
void* Tasks::run(void* argument) {
  std::unique_ptr<Task> task(static_cast<Task*>(argument));
  prctl(PR_SET_NAME, "blockferry-io");
  task->thread = pthread_self();
  task->body();
  task->body = nullptr;
  task->refused = nullptr;
  Tasks* owner = task->owner;
  std::lock_guard guard(owner->lock_);
  owner->ended_.push_back(std::move(task));
  owner->changed_.notify_one();
  return nullptr;
}

}  // namespace blockferry
