// SPDX-License-Identifier: Apache-2.0
// See log-writer.h.
#include "log-writer.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "own-group.h"

namespace blockferry {

int LogWriter::start(int fd) {
  copy_ = UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy_.valid()) return -errno;
  const int mine = copy_.get();
  const GroupKind kind = startOwnGroup({mine}, [self = shared_from_this(), mine] { self->serve(mine); });
  if (kind == GroupKind::own) copy_.reset();
  return kind == GroupKind::failed ? -EAGAIN : 0;
}

bool LogWriter::write(const std::string& text) {
  std::lock_guard guard(lock_);
  if (stopping_ || queue_.size() + writing_ + text.size() > room_) {
    dropped_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  const bool idle = queue_.empty();
  queue_ += text;
  if (idle) changed_.notify_all();
  return true;
}

bool LogWriter::flush(std::chrono::milliseconds wait) {
  std::unique_lock guard(lock_);
  return changed_.wait_for(guard, wait, [&] { return queue_.empty() && writing_ == 0; });
}

void LogWriter::stop() {
  std::lock_guard guard(lock_);
  stopping_ = true;
  changed_.notify_all();
}

// The task. What cannot be written is lost: there is no other place to say so.
void LogWriter::serve(int fd) {
  std::unique_lock guard(lock_);
  for (;;) {
    changed_.wait(guard, [&] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const std::string text = std::move(queue_);
    queue_.clear();
    writing_ = text.size();
    guard.unlock();
    for (size_t done = 0; done < text.size();) {
      const ssize_t put = ::write(fd, text.data() + done, text.size() - done);
      if (put >= 0) {
        done += static_cast<size_t>(put);
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN) break;
      pollfd ready{fd, POLLOUT, 0};  // somebody else made it O_NONBLOCK
      ::poll(&ready, 1, -1);
    }
    guard.lock();
    writing_ = 0;
    changed_.notify_all();
  }
}

}  // namespace blockferry
