// SPDX-License-Identifier: Apache-2.0
// See file.h.
#include "file.h"

namespace blockferry {

// Any pool thread. Those who want to be alone go first, so that writers do not starve them.
void WriteGate::enterShared() {
  std::unique_lock guard(lock_);
  changed_.wait(guard, [&] { return !alone_ && waitingAlone_ == 0; });
  ++shared_;
}

bool WriteGate::tryEnterShared() {
  std::lock_guard guard(lock_);
  if (alone_ || waitingAlone_ > 0) return false;
  ++shared_;
  return true;
}

void WriteGate::leaveShared() {
  std::lock_guard guard(lock_);
  if (--shared_ == 0) changed_.notify_all();
}

void WriteGate::enterAlone() {
  std::unique_lock guard(lock_);
  ++waitingAlone_;
  changed_.wait(guard, [&] { return !alone_ && shared_ == 0; });
  --waitingAlone_;
  alone_ = true;
}

void WriteGate::leaveAlone() {
  std::lock_guard guard(lock_);
  alone_ = false;
  changed_.notify_all();
}

}  // namespace blockferry
