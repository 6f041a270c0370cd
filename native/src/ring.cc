// SPDX-License-Identifier: Apache-2.0
// See ring.h.
#include "ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

// Newer than the headers of some systems we build on; the kernel that runs us decides.
#ifndef IORING_SETUP_R_DISABLED
#define IORING_SETUP_R_DISABLED (1U << 6)
#endif
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

namespace blockferry {

namespace {

constexpr unsigned kRegisterEnableRings = 12;
constexpr unsigned kRegisterBuffers2 = 15;
constexpr unsigned kRegisterBuffersUpdate = 16;
constexpr uint32_t kSparse = 1;

// The kernel's io_uring_rsrc_register and io_uring_rsrc_update2, which older headers have without `flags`.
struct TableRequest {
  uint32_t places;
  uint32_t flags;
  uint64_t unused;
  uint64_t data;
  uint64_t tags;
};
struct PlaceRequest {
  uint32_t place;
  uint32_t unused;
  uint64_t data;
  uint64_t tags;
  uint32_t count;
  uint32_t unused2;
};

int call(long result) { return result < 0 ? -errno : static_cast<int>(result); }

int registerWith(int fd, unsigned what, const void* argument, unsigned count) {
  return call(syscall(SYS_io_uring_register, fd, what, argument, count));
}

}  // namespace

Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

bool Mapping::map(int fd, size_t bytes, uint64_t offset) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset));
  if (base == MAP_FAILED) return false;
  base_ = base;
  bytes_ = bytes;
  return true;
}

int Ring::setUp(uint32_t entries) {
  // Deferred task work (6.1): completions are handled where we wait for them, without interrupting the task.
  const uint32_t best = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  io_uring_params params{};
  int fd = -EINVAL;
  for (const uint32_t flags : {best, 0U}) {
    params = {};
    params.flags = IORING_SETUP_R_DISABLED | flags;
    fd = call(syscall(SYS_io_uring_setup, entries, &params));
    if (fd != -EINVAL) break;
  }
  if (fd < 0) return fd;
  fd_ = UniqueFd(fd);
  entries_ = params.sq_entries;
  const bool mapped =
      sqRing_.map(fd, params.sq_off.array + params.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING) &&
      cqRing_.map(fd, params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING) &&
      sqeMemory_.map(fd, params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
  if (!mapped) return -ENOMEM;
  sqHead_ = sqRing_.at<uint32_t>(params.sq_off.head);
  sqTail_ = sqRing_.at<uint32_t>(params.sq_off.tail);
  sqMask_ = *sqRing_.at<uint32_t>(params.sq_off.ring_mask);
  sqArray_ = sqRing_.at<uint32_t>(params.sq_off.array);
  sqes_ = sqeMemory_.at<io_uring_sqe>(0);
  cqHead_ = cqRing_.at<uint32_t>(params.cq_off.head);
  cqTail_ = cqRing_.at<uint32_t>(params.cq_off.tail);
  cqMask_ = *cqRing_.at<uint32_t>(params.cq_off.ring_mask);
  cqes_ = cqRing_.at<io_uring_cqe>(params.cq_off.cqes);
  return 0;
}

int Ring::enable() { return registerWith(fd_.get(), kRegisterEnableRings, nullptr, 0); }

io_uring_sqe* Ring::next() {
  const uint32_t tail = *sqTail_;
  const uint32_t index = tail & sqMask_;
  io_uring_sqe* entry = &sqes_[index];
  std::memset(entry, 0, sizeof *entry);
  sqArray_[index] = index;
  // The kernel looks only while we are in submitAndWait(), after the caller has filled the entry in.
  __atomic_store_n(sqTail_, tail + 1, __ATOMIC_RELEASE);
  return entry;
}

int Ring::enter(uint32_t count, uint32_t least, uint32_t flags) {
  return call(syscall(SYS_io_uring_enter, fd_.get(), count, least, flags, nullptr, 0));
}

int Ring::submit(uint32_t count) { return enter(count, 0, 0); }

int Ring::submitAndWait() { return enter(prepared(), 1, IORING_ENTER_GETEVENTS); }

int Ring::look() { return enter(0, 0, IORING_ENTER_GETEVENTS); }

bool Ring::makeBufferTable(uint32_t places) {
  TableRequest request{};
  request.places = places;
  request.flags = kSparse;
  return registerWith(fd_.get(), kRegisterBuffers2, &request, sizeof request) == 0;
}

bool Ring::setBuffer(uint32_t place, void* data, size_t bytes) {
  iovec buffer{bytes > 0 ? data : nullptr, bytes};
  PlaceRequest request{};
  request.place = place;
  request.data = reinterpret_cast<uint64_t>(&buffer);
  request.count = 1;
  return registerWith(fd_.get(), kRegisterBuffersUpdate, &request, sizeof request) == 1;
}

}  // namespace blockferry
