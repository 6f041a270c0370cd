// SPDX-License-Identifier: Apache-2.0
// See ending.h.
#include "ending.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <iterator>

#include "verbs.h"

namespace blockferry {

int Ending::open(std::vector<int>& keep) {
  event_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_.valid()) return -errno;
  keep.push_back(event_.get());
  return 0;
}

void Ending::wakeAll() {
  const uint64_t one = 1;
  retry([&] { return ::write(event_.get(), &one, sizeof one); });
}

int64_t Ending::wait(int fd, short events, int timeoutMs, int wake) const {
  pollfd asked[] = {{fd, events, 0}, {event_.get(), POLLIN, 0}, {wake, POLLIN, 0}};
  if (begun()) return -ECANCELED;
  const int64_t ready = retry([&] { return ::poll(asked, std::size(asked), timeoutMs); });
  if (ready <= 0) return ready;
  return asked[1].revents != 0 || asked[2].revents != 0 ? -ECANCELED : 1;
}

}  // namespace blockferry
