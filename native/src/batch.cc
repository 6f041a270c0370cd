// SPDX-License-Identifier: Apache-2.0
// See batch.h.
#include "batch.h"

#include <algorithm>
#include <cerrno>

namespace blockferry {

namespace {
// The kernel takes 1024, devices split what has more than some hundred.
constexpr size_t kMostParts = 256;
}  // namespace

Batch::Batch(Request& whole, size_t atOnce, std::vector<BatchPiece> pieces) : whole_(whole), atOnce_(atOnce) {
  std::sort(pieces.begin(), pieces.end(),
            [](const BatchPiece& one, const BatchPiece& other) { return one.offset < other.offset; });
  for (const BatchPiece& piece : pieces) add(piece);
}

void Batch::add(const BatchPiece& piece) {
  Request* last = pieces_.empty() ? nullptr : &pieces_.back();
  if (last != nullptr && last->offset + last->length == piece.offset && last->parts.size() < kMostParts) {
    if (last->parts.empty()) last->parts.push_back({last->data, static_cast<size_t>(last->length)});
    last->parts.push_back({piece.data, static_cast<size_t>(piece.length)});
    last->length += piece.length;
    return;
  }
  Request& next = pieces_.emplace_back();
  next.id = static_cast<double>(piece.index);
  next.op = whole_.op;
  next.offset = piece.offset;
  next.length = piece.length;
  next.flags = whole_.flags;
  next.memory = whole_.memory;
  next.data = piece.data;
  next.batch = this;
}

void Batch::start(std::vector<Request*>& into) {
  for (Request& piece : pieces_) piece.file = whole_.file;
  std::lock_guard guard(lock_);
  next_ = running_ = std::min(atOnce_, pieces_.size());
  for (size_t index = 0; index < next_; ++index) into.push_back(&pieces_[index]);
}

void Batch::letGo() {
  for (Request& piece : pieces_) piece.file.reset();
}

Batch::After Batch::ended(const Request& piece) {
  std::lock_guard guard(lock_);
  --running_;
  const bool zero = piece.result >= kReadZero;
  const int64_t got = zero ? piece.result - kReadZero : piece.result;
  allZero_ = allZero_ && zero;
  // Whoever asks for pieces knows that they are there: a short one means that somebody cut the file.
  const int64_t error = got < 0 ? got : got < piece.length ? -EIO : 0;
  if (error < 0 && error_ == 0) {
    error_ = error;
    failed_ = static_cast<size_t>(piece.id);
  }
  After after;
  if (error_ == 0 && next_ < pieces_.size()) {
    ++running_;
    after.next = &pieces_[next_++];
  } else if (running_ == 0) {
    whole_.result = error_ < 0 ? error_ : whole_.length + (allZero_ ? kReadZero : 0);
    after.whole = &whole_;
  }
  return after;
}

void Batch::markStarted(int64_t ms) {
  int64_t never = 0;
  whole_.startedMs.compare_exchange_strong(never, ms, std::memory_order_relaxed);
}

}  // namespace blockferry
