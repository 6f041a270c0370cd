// SPDX-License-Identifier: Apache-2.0
// See schedule.h.
#include "schedule.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace blockferry {

namespace {

// The kernel's sched_attr, first version; the C library has no wrapper for it.
struct Attributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};

// Nanoseconds; the shortest the kernel takes.
constexpr uint64_t kShortSlice = 100 * 1000;

}  // namespace

int scheduleForThroughput() {
  const sched_param none{};
  return sched_setscheduler(0, SCHED_BATCH, &none) == 0 ? 0 : -errno;
}

int scheduleForLatency() {
  const sched_param lowest{1};
  if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &lowest) == 0) return 0;
  // Not allowed to (CAP_SYS_NICE, or a limit on real-time priority, is needed): ask for shorter slices instead.
  Attributes attributes{};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) < 0) return -errno;
  attributes.size = sizeof attributes;
  attributes.runtime = kShortSlice;
  return syscall(SYS_sched_setattr, 0, &attributes, 0) < 0 ? -errno : 0;
}

}  // namespace blockferry
