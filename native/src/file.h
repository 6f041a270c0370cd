// SPDX-License-Identifier: Apache-2.0
// An open file: its descriptor and what was learned about it. Made by the open verb, shared by the requests on it.
// Rule: created, used and destroyed in the engine's thread group, where its descriptor lives.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "stream.h"
#include "unique-fd.h"

namespace blockferry {

// Same order as `capabilities` in native/words.ts.
enum class Can : uint32_t { zeroRange, punchHole, fallocate, blkzeroout, blkdiscard, nowait, copyRange, reflink, map };

enum class FileKind : uint32_t { file, block, character, directory, fifo, socket };

struct FileFacts {
  FileKind kind = FileKind::file;
  int64_t size = 0;
  int64_t allocated = 0;
  bool direct = false;
  uint32_t requestAlign = 1;
  uint32_t memoryAlign = 1;
  std::string device;
  std::string inode;
};

/**
 * Orders the writes of one file while O_DIRECT is switched off for an unaligned one, and growth against writes.
 * A gate and not a std::shared_mutex: the ring's task holds many shared places at once and never waits.
 */
class WriteGate {
 public:
  void enterShared();
  bool tryEnterShared();
  void leaveShared();
  void enterAlone();
  void leaveAlone();

 private:
  std::mutex lock_;  // guards everything below
  std::condition_variable changed_;
  uint32_t shared_ = 0;
  uint32_t waitingAlone_ = 0;
  bool alone_ = false;
};

class SharedPass {
 public:
  explicit SharedPass(WriteGate& gate) : gate_(gate) { gate_.enterShared(); }
  ~SharedPass() { gate_.leaveShared(); }
  SharedPass(const SharedPass&) = delete;
  SharedPass& operator=(const SharedPass&) = delete;

 private:
  WriteGate& gate_;
};

class AlonePass {
 public:
  explicit AlonePass(WriteGate& gate) : gate_(gate) { gate_.enterAlone(); }
  ~AlonePass() { gate_.leaveAlone(); }
  AlonePass(const AlonePass&) = delete;
  AlonePass& operator=(const AlonePass&) = delete;

 private:
  WriteGate& gate_;
};

struct File {
  // Set at open, never changed.
  UniqueFd fd;
  FileKind kind = FileKind::file;
  bool direct = false;
  uint32_t requestAlign = 1;
  uint32_t memoryAlign = 1;

  // A bit per capability that was refused once or is switched off; only ever set.
  std::atomic<uint32_t> without{0};
  bool can(Can what) const { return (without.load(std::memory_order_relaxed) & (1U << static_cast<uint32_t>(what))) == 0; }
  void cannot(Can what) { without.fetch_or(1U << static_cast<uint32_t>(what), std::memory_order_relaxed); }

  // -errno of the first failed flush, for ever: later success would not mean that the lost pages were written.
  std::atomic<int> flushError{0};
  // Where the last extent query saw data begin and did not ask for its end; a hint that is checked when used.
  std::atomic<int64_t> dataAt{-1};
  // The file system has no SEEK_DATA.
  std::atomic<bool> noSeek{false};

  // A Unix socket that was made here, so that nobody else knows it: no call on it waits.
  bool ours = false;

  // Waits for storage and not for a peer.
  bool isStorage() const { return kind == FileKind::file || kind == FileKind::block || kind == FileKind::directory; }

  WriteGate gate;
  Stream stream;

  // JS thread only: requests admitted or waiting on this file; close waits for them.
  uint32_t requests = 0;
};

}  // namespace blockferry
