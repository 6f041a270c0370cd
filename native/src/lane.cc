// SPDX-License-Identifier: Apache-2.0
// See lane.h.
#include "lane.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "verbs.h"

namespace blockferry {

namespace {

// Longer than it takes a client to wake up, hear the answer, ask again and wake us up.
constexpr int64_t kSoonNs = 50 * 1000;
constexpr int64_t kNsPerMs = 1000 * 1000;

int64_t nowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

void add(std::atomic<int64_t>& to, int64_t what) {
  to.store(to.load(std::memory_order_relaxed) + what, std::memory_order_relaxed);
}

}  // namespace

void Lane::wake() {
  std::lock_guard guard(lock_);
  if (!wake_.valid()) return;
  const uint64_t one = 1;
  retry([&] { return ::write(wake_.get(), &one, sizeof one); });
}

LaneCounts Lane::counts() const {
  const auto now = [](const std::atomic<int64_t>& count) { return count.load(std::memory_order_relaxed); };
  return {now(reads_), now(readBytes_), now(writes_), now(writeBytes_), now(from_), now(to_)};
}

int64_t Lane::serve(Request& request, const Ending& ending) {
  {
    std::lock_guard guard(lock_);
    wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_.valid()) return -errno;
  }
  while (serveOne(request, ending)) continue;
  {
    std::lock_guard guard(lock_);
    wake_.reset();
  }
  received_ = rest(request);
  return 0;
}

int64_t Lane::receiveMore(const Request& request, bool first, const Ending& ending) {
  for (;;) {
    // Also where the client never lets it wait.
    if (called_.load() || ending.begun()) return 0;
    const int waitMs = first ? idleMs_ : leftMs();
    if (waitMs <= 0) return 0;
    int64_t received = asksAtOnce_ ? receiveSoon(request) : -EAGAIN;
    if (received == -EAGAIN) {
      if (ending.wait(request.to->fd.get(), POLLIN, waitMs, wake_.get()) != 1) return 0;
      received = receive(request);
    }
    if (received > 0) {
      if (first) {
        begunNs_ = nowNs();
        asksAtOnce_ = begunNs_ - answeredNs_ < kSoonNs;
      }
      return received;
    }
    if (received != -EAGAIN) return 0;
  }
}

int Lane::leftMs() const {
  const int64_t gone = (nowNs() - begunNs_) / kNsPerMs;
  return gone < idleMs_ ? idleMs_ - static_cast<int>(gone) : 0;
}

// For a client that asked again at once, last time: two threads that put each other to sleep take longer for that than for what they do.
// On two processors 45000 reads a second instead of 23000. Others may run meanwhile, the client among them.
int64_t Lane::receiveSoon(const Request& request) {
  const int64_t until = answeredNs_ + kSoonNs;
  do {
    const int64_t received = receive(request);
    if (received != -EAGAIN) return received;
    sched_yield();
  } while (nowNs() < until && !called_.load());
  return -EAGAIN;
}

bool Lane::perform(Request& request, const Asked& asked) {
  doing_.store(asked.writes ? Op::write : Op::read, std::memory_order_relaxed);
  request.markStarted();
  const int64_t result = asked.writes ? writeFile(*request.file, asked.offset, asked.length, request.data)
                                      : readFile(*request.file, asked.offset, asked.length, request.data);
  request.startedMs.store(0, std::memory_order_relaxed);
  // Also of one that failed: some of it may have been written.
  if (asked.writes) {
    const bool first = to_.load(std::memory_order_relaxed) == 0;
    const int64_t end = asked.offset + asked.length;
    if (first || asked.offset < from_.load(std::memory_order_relaxed)) from_.store(asked.offset);
    if (end > to_.load(std::memory_order_relaxed)) to_.store(end);
  }
  if (result != asked.length || (asked.writes && redo_.load())) return false;
  count(asked);
  return true;
}

void Lane::count(const Asked& asked) {
  add(asked.writes ? writes_ : reads_, 1);
  add(asked.writes ? writeBytes_ : readBytes_, asked.length);
}

bool Lane::send(const Request& request, const iovec (&parts)[2]) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts);
  message.msg_iovlen = 2;
  const int64_t sent =
      retry([&] { return ::sendmsg(request.to->fd.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  answeredNs_ = nowNs();
  size_t gone = sent > 0 ? static_cast<size_t>(sent) : 0;
  for (const iovec& part : parts) {
    const size_t skipped = std::min(gone, part.iov_len);
    gone -= skipped;
    const auto* const data = static_cast<const std::byte*>(part.iov_base);
    unsent_.insert(unsent_.end(), data + skipped, data + part.iov_len);
  }
  return unsent_.empty();
}

}  // namespace blockferry
