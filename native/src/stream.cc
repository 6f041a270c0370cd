// SPDX-License-Identifier: Apache-2.0
// See stream.h.
#include "stream.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "request.h"
#include "verbs.h"

namespace blockferry {

bool Stream::enter(Request& request) {
  std::lock_guard guard(lock_);
  Lane& mine = lane(request.direction());
  if (!std::exchange(mine.busy, true)) return true;
  request.next = nullptr;
  (mine.first == nullptr ? mine.first : mine.last->next) = &request;
  mine.last = &request;
  return false;
}

Request* Stream::leave(Direction direction) {
  std::lock_guard guard(lock_);
  Lane& mine = lane(direction);
  Request* const next = mine.first;
  if (next == nullptr) mine.busy = false;
  else mine.first = next->next;
  return next;
}

int64_t Stream::ended(Direction direction) {
  std::lock_guard guard(lock_);
  return lane(direction).ended;
}

void Stream::end(Direction direction, int64_t how) {
  std::lock_guard guard(lock_);
  Lane& mine = lane(direction);
  if (mine.ended == kGoesOn) mine.ended = how;
}

void Stream::shut(uint32_t directions) {
  std::lock_guard guard(lock_);
  toShut_ |= directions;
  if ((directions & kShutRead) != 0) lane(Direction::read).ended = -ECANCELED;
  if ((directions & kShutWrite) != 0) lane(Direction::write).ended = -ECANCELED;
}

void Stream::wake(const UniqueFd& fd) {
  std::lock_guard guard(lock_);
  wakeLocked(fd.get());
}

// Other descriptors than connected sockets refuse the shutdown, which is no harm; listeners stop listening.
void Stream::wakeLocked(int fd) {
  const uint32_t directions = std::exchange(toShut_, 0);
  if (directions == 0 || fd < 0) return;
  // First: who is woken finds it done.
  const bool both = directions == (kShutRead | kShutWrite);
  ::shutdown(fd, both ? SHUT_RDWR : directions == kShutRead ? SHUT_RD : SHUT_WR);
  const uint64_t one = 1;
  for (const Direction direction : {Direction::read, Direction::write}) {
    const Lane& mine = lane(direction);
    if (mine.ended != -ECANCELED || !mine.wake.valid()) continue;
    retry([&] { return ::write(mine.wake.get(), &one, sizeof one); });
  }
}

int Stream::release(UniqueFd& fd) {
  std::lock_guard guard(lock_);
  wakeLocked(fd.get());
  for (Lane& mine : lanes_) mine.wake.reset();
  return fd.release();
}

bool Stream::overLocked(int fd, Direction direction) {
  if (lane(direction).ended == kGoesOn) return false;
  wakeLocked(fd);
  return true;
}

int64_t Stream::wait(int fd, Direction direction, int timeoutMs, const Ending& ending) {
  int wake = -1;
  {
    std::lock_guard guard(lock_);
    if (overLocked(fd, direction)) return -ECANCELED;
    Lane& mine = lane(direction);
    if (!mine.wake.valid()) mine.wake = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!mine.wake.valid()) return -errno;
    wake = mine.wake.get();
  }
  const int64_t ready = ending.wait(fd, direction == Direction::read ? POLLIN : POLLOUT, timeoutMs, wake);
  // A socket shut down is ready before its waker is told.
  std::lock_guard guard(lock_);
  return ready > 0 && overLocked(fd, direction) ? -ECANCELED : ready;
}

}  // namespace blockferry
