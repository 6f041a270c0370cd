// SPDX-License-Identifier: Apache-2.0
// See request.h.
#include "request.h"

#include <ctime>

#include "batch.h"

namespace blockferry {

int64_t nowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

void Request::markStarted() {
  const int64_t now = nowMs();
  startedMs.store(now, std::memory_order_relaxed);
  if (batch != nullptr) batch->markStarted(now);
}

}  // namespace blockferry
