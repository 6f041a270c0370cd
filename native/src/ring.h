// SPDX-License-Identifier: Apache-2.0
// One io_uring by raw system calls: set up by the starter, enabled and used by one task. Knows nothing of requests.
// Rule: the user never has more in the ring than capacity(), which the completion queue always holds.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>

#include "unique-fd.h"

namespace blockferry {

class Mapping {
 public:
  Mapping() = default;
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  bool map(int fd, size_t bytes, uint64_t offset);
  template <typename T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(base_) + offset);
  }

 private:
  void* base_ = nullptr;
  size_t bytes_ = 0;
};

class Ring {
 public:
  // Starter. 0, or -errno when the kernel, a container or a limit refuses. The ring is disabled.
  int setUp(uint32_t entries);
  int fd() const { return fd_.get(); }
  // In the table of descriptors the ring is used from, after its last use.
  void close() { fd_.reset(); }

  // The rest: the task that uses the ring. 0 or -errno.
  int enable();
  uint32_t capacity() const { return entries_ - 1; }
  // A cleared entry, to be filled in; the caller keeps within capacity().
  io_uring_sqe* next();
  // Filled in and not submitted.
  uint32_t prepared() const { return *sqTail_ - __atomic_load_n(sqHead_, __ATOMIC_ACQUIRE); }
  // Submits so many of them. Their number, or -errno.
  int submit(uint32_t count);
  // Submits what was filled in and waits for at least one completion. 0 or -errno.
  int submitAndWait();
  // Lets the kernel finish what is about to be completed, without waiting. 0 or -errno.
  int look();
  // Calls `each(userData, result)` for every completion there is.
  template <typename Each>
  void reap(Each each) {
    uint32_t head = *cqHead_;
    for (; head != __atomic_load_n(cqTail_, __ATOMIC_ACQUIRE); ++head) {
      const io_uring_cqe cqe = cqes_[head & cqMask_];
      __atomic_store_n(cqHead_, head + 1, __ATOMIC_RELEASE);
      each(cqe.user_data, cqe.res);
    }
  }

  // A table of `places` empty places for registered buffers. False: none can be registered.
  bool makeBufferTable(uint32_t places);
  // bytes 0 empties the place. False: refused (memlock limit).
  bool setBuffer(uint32_t place, void* data, size_t bytes);

 private:
  int enter(uint32_t count, uint32_t least, uint32_t flags);

  UniqueFd fd_;
  uint32_t entries_ = 0;
  Mapping sqRing_;
  Mapping cqRing_;
  Mapping sqeMemory_;
  uint32_t* sqTail_ = nullptr;
  uint32_t* sqHead_ = nullptr;
  uint32_t* sqArray_ = nullptr;
  uint32_t sqMask_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  uint32_t* cqHead_ = nullptr;
  uint32_t* cqTail_ = nullptr;
  uint32_t cqMask_ = 0;
  io_uring_cqe* cqes_ = nullptr;
};

}  // namespace blockferry
