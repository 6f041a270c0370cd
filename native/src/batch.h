// SPDX-License-Identifier: Apache-2.0
// Pieces of one read or write that lie apart in a file: requests of their own for the engine, one request for
// JavaScript. Made and destroyed on the JS thread together with the whole; in between the engine's tasks use it.
// Why: a scattered request costs one crossing to JavaScript and back instead of one per piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "request.h"

namespace blockferry {

// `index`: its number for JavaScript. `data`: where it lies in the memory of the whole.
struct BatchPiece {
  size_t index;
  int64_t offset;
  int64_t length;
  std::byte* data;
};

class Batch {
 public:
  // Pieces that follow each other in the file, in whatever order they were given, become one request.
  Batch(Request& whole, size_t atOnce, std::vector<BatchPiece> pieces);

  // JS thread. The pieces to begin with are added to `into`; they use the file of the whole until letGo().
  void start(std::vector<Request*>& into);
  // JS thread, once the whole has ended.
  void letGo();

  // A piece has ended. `next`: begin this one. `whole`: all have ended, the result is in it. After one has failed none is begun.
  struct After {
    Request* next = nullptr;
    Request* whole = nullptr;
  };
  // Any task, no N-API.
  After ended(const Request& piece);

  // Any task. A piece goes to the kernel, and so the whole.
  void markStarted(int64_t ms);

  // Any thread, once the whole has ended with an error: the piece it is of.
  size_t failedPiece() const { return failed_; }

 private:
  void add(const BatchPiece& piece);

  Request& whole_;
  const size_t atOnce_;
  std::deque<Request> pieces_;  // set by the constructor, never changed in number afterwards; their ids are the indexes

  std::mutex lock_;  // guards everything below
  size_t next_ = 0;
  size_t running_ = 0;
  bool allZero_ = true;
  int64_t error_ = 0;
  size_t failed_ = 0;
};

}  // namespace blockferry
