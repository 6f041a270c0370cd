// SPDX-License-Identifier: Apache-2.0
// See descriptors.h.
#include "descriptors.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string>

namespace blockferry {

namespace {

// Storage that does not answer keeps this many; further descriptors wait for it then.
constexpr int kThreads = 16;
constexpr size_t kStackBytes = 256 * 1024;
constexpr std::chrono::seconds kIdle{1};

}  // namespace

int accessMode(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return -errno;
  return (flags & O_PATH) != 0 ? -EBADF : flags & O_ACCMODE;
}

int duplicate(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return copy < 0 ? -errno : copy;
}

int referenceTo(int fd) {
  const std::string name = "/proc/self/fd/" + std::to_string(fd);
  const int found = ::open(name.c_str(), O_PATH | O_CLOEXEC);
  return found < 0 ? -errno : found;
}

void Closer::close(int fd) {
  std::lock_guard guard(lock_);
  queue_.push_back(fd);
  if (static_cast<size_t>(idle_) >= queue_.size() || threads_ == kThreads) {
    wake_.notify_one();
    return;
  }
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  auto self = std::make_unique<std::shared_ptr<Closer>>(shared_from_this());
  pthread_t thread;
  if (pthread_create(&thread, &attributes, serve, self.get()) == 0) {
    self.release();
    ++threads_;
  }
  // Without a thread it waits for the next one.
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void* Closer::serve(void* self) {
  const std::unique_ptr<std::shared_ptr<Closer>> closer(static_cast<std::shared_ptr<Closer>*>(self));
  (*closer)->work();
  return nullptr;
}

void Closer::work() {
  std::unique_lock guard(lock_);
  for (;;) {
    ++idle_;
    wake_.wait_for(guard, kIdle, [&] { return !queue_.empty(); });
    --idle_;
    if (queue_.empty()) break;
    const int fd = queue_.front();
    queue_.pop_front();
    guard.unlock();
    ::close(fd);
    guard.lock();
  }
  --threads_;
}

}  // namespace blockferry
