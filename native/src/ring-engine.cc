// SPDX-License-Identifier: Apache-2.0
// See ring-engine.h.
#include "ring-engine.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "verbs.h"

namespace blockferry {

namespace {

constexpr uint32_t kEntries = 256;
constexpr uint32_t kGivenAtOnce = 2;

bool fitsRing(const Request& request) {
  if (!request.isTransfer() || request.length == 0) return false;
  const File& file = *request.file;
  if (!file.direct || !file.can(Can::nowait) || request.offset % file.requestAlign != 0) return false;
  return request.everyPart([&](const std::byte* data, size_t length) {
    return length % file.requestAlign == 0 && reinterpret_cast<uintptr_t>(data) % file.memoryAlign == 0;
  });
}

}  // namespace

// JS thread.
int RingEngine::start(int signalFd, std::function<void()> last) {
  const int refused = ring_.setUp(kEntries);
  if (refused < 0) return refused;
  wakeFd_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  wakened_ = UniqueFd(fcntl(wakeFd_.get(), F_DUPFD_CLOEXEC, 3));
  if (!wakened_.valid()) return -EMFILE;
  const int ringFd = ring_.fd();
  const int wakeFd = wakened_.get();
  // The descriptors are closed on the leader, in the table they live in; who destroys this object is not known.
  const GroupKind kind = pool_.startWith(signalFd, {ringFd, wakeFd}, [this, last = std::move(last)] {
    ring_.close();
    wakened_.reset();
    last();
  });
  if (kind == GroupKind::failed) return -errno;
  if (kind == GroupKind::own) {
    // The group has copies under the same numbers, which its objects now stand for.
    ::close(ringFd);
    ::close(wakeFd);
  }
  pool_.runInGroup([this] { serve(); }, [this] { giveUp(); });
  return 0;
}

// JS thread.
void RingEngine::submit(const std::vector<Request*>& requests) {
  bool sleeping = false;
  {
    std::lock_guard guard(lock_);
    for (Request* request : requests) {
      if (gaveUp_ || !fitsRing(*request)) pool_.submit(request);
      else queue_.push_back(request);
    }
    if (!queue_.empty()) sleeping = rouse();
  }
  if (sleeping) wake();
}

void RingEngine::forget(uint32_t group) {
  bool sleeping = false;
  {
    std::lock_guard guard(lock_);
    if (gaveUp_) return;
    forgotten_.push_back(group);
    sleeping = rouse();
  }
  if (sleeping) wake();
}

void RingEngine::stop() {
  {
    std::lock_guard guard(lock_);
    stopping_ = true;
  }
  wake();  // awake or not: an armed wake-up must come back
  wakeFd_.reset();
  pool_.stop();
}

// Holds lock_. Whether the task must be woken: one that is awake looks at the queue before it sleeps.
bool RingEngine::rouse() { return std::exchange(asleep_, false); }

// Without lock_, which the woken task wants at once.
void RingEngine::wake() {
  const uint64_t one = 1;
  while (::write(wakeFd_.get(), &one, sizeof one) < 0 && errno == EINTR) continue;
}

// The ring's task, no N-API.
void RingEngine::serve() {
  if (ring_.enable() < 0) return giveUp();
  hasTable_ = ring_.makeBufferTable(static_cast<uint32_t>(registered_.size()));
  for (;;) {
    const bool wasIdle = inRing_ == 0;
    const bool stopping = takeQueued();
    if (stopping && inRing_ == 0 && !wakeArmed_) break;
    if (!stopping && !wakeArmed_) prepareWake();
    if (wasIdle) submitByParts();
    if (!fallAsleep(stopping)) continue;
    const int result = ring_.submitAndWait();
    if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) abort();
    reap();
    // Pieces that began together end together: those that come right behind the first make one submission, not two.
    if (!backlog_.empty() && ring_.look() == 0) reap();
  }
  for (uint32_t group = 0; group < registered_.size(); ++group) unregister(group);
}

// The kernel gives more than two to the device together, once all are prepared. A device that rests had better begin
// with the first: 8 requests of 64 KiB then take 155 µs, not 195. A busy one loses nothing by waiting, and each call costs.
void RingEngine::submitByParts() {
  while (ring_.prepared() > kGivenAtOnce && ring_.submit(kGivenAtOnce) > 0) continue;
}

void RingEngine::reap() {
  ring_.reap([&](uint64_t data, int outcome) {
    if (data == 0) wakeArmed_ = false;
    else complete(reinterpret_cast<Request*>(data), outcome);
  });
}

// Moves what fits into the ring. Whether the engine is stopping; then what waits is dropped.
bool RingEngine::takeQueued() {
  std::vector<uint32_t> forgotten;
  {
    std::lock_guard guard(lock_);
    asleep_ = false;
    forgotten.swap(forgotten_);
    backlog_.insert(backlog_.end(), queue_.begin(), queue_.end());
    queue_.clear();
    if (stopping_) {
      backlog_.clear();
      return true;
    }
  }
  for (const uint32_t group : forgotten) unregister(group);
  // One place is kept for the wake-up.
  while (!backlog_.empty() && inRing_ + 1 < ring_.capacity()) {
    prepare(backlog_.front());
    backlog_.pop_front();
  }
  return false;
}

// False: something has come since takeQueued().
bool RingEngine::fallAsleep(bool stopping) {
  std::lock_guard guard(lock_);
  if (!queue_.empty() || !forgotten_.empty() || stopping_ != stopping) return false;
  asleep_ = true;
  return true;
}

void RingEngine::prepareWake() {
  io_uring_sqe* entry = ring_.next();
  entry->opcode = IORING_OP_READ;
  entry->fd = wakened_.get();
  entry->addr = reinterpret_cast<uint64_t>(&wakeCount_);
  entry->len = sizeof wakeCount_;
  wakeArmed_ = true;
}

void RingEngine::prepare(Request* request) {
  const bool reading = request->op == Op::read;
  // The ring's task never waits at the gate; a thread does.
  if (!reading && !request->file->gate.tryEnterShared()) return pool_.submit(request);
  const bool apart = !request->parts.empty();
  const bool fixed = !apart && isRegistered(request->memory);
  io_uring_sqe* entry = ring_.next();
  if (fixed) entry->opcode = reading ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
  else if (apart) entry->opcode = reading ? IORING_OP_READV : IORING_OP_WRITEV;
  else entry->opcode = reading ? IORING_OP_READ : IORING_OP_WRITE;
  entry->fd = request->file->fd.get();
  entry->off = static_cast<uint64_t>(request->offset);
  entry->addr = apart ? reinterpret_cast<uint64_t>(request->parts.data()) : reinterpret_cast<uint64_t>(request->data);
  entry->len = static_cast<uint32_t>(apart ? request->parts.size() : static_cast<size_t>(request->length));
  entry->buf_index = fixed ? static_cast<uint16_t>(request->memory->index()) : 0;
  entry->user_data = reinterpret_cast<uint64_t>(request);
  request->markStarted();
  ++inRing_;
}

void RingEngine::complete(Request* request, int result) {
  --inRing_;
  if (request->op == Op::write) request->file->gate.leaveShared();
  const bool again = result == -EAGAIN || result == -EINTR || result == -EINVAL || result == -ECANCELED;
  if (again || (result >= 0 && result < request->length)) return pool_.submit(request);
  request->result = result;
  if (request->op == Op::read && (request->flags & kReadScan) != 0 && result > 0 && request->everyPart(isZero)) {
    request->result += kReadZero;
  }
  Request* next = pool_.finish(request);
  if (next == nullptr) return;
  if (fitsRing(*next)) backlog_.push_back(next);
  else pool_.submit(next);
}

// Registers the group on first use.
bool RingEngine::isRegistered(const std::shared_ptr<SlotGroup>& memory) {
  if (!hasTable_) return false;
  Registered& place = registered_[memory->index()];
  if (place.memory == memory) return !place.refused;
  if (place.memory) unregister(memory->index());
  place.memory = memory;
  place.refused = !ring_.setBuffer(memory->index(), memory->data(), memory->size());
  return !place.refused;
}

void RingEngine::unregister(uint32_t group) {
  Registered& place = registered_[group];
  if (place.memory && !place.refused) ring_.setBuffer(group, nullptr, 0);
  place = Registered{};
}

void RingEngine::giveUp() {
  std::lock_guard guard(lock_);
  gaveUp_ = true;
  for (Request* request : queue_) pool_.submit(request);
  queue_.clear();
}

std::unique_ptr<Engine> makeRingEngine(size_t maxTasks, uint32_t slotGroups) {
  return std::make_unique<RingEngine>(maxTasks, slotGroups);
}

}  // namespace blockferry
