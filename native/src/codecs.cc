// SPDX-License-Identifier: Apache-2.0
// See codecs.h.
#include "codecs.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace blockferry {

namespace {

size_t lengthOf(const std::vector<Piece>& pieces) {
  size_t length = 0;
  for (const Piece& piece : pieces) length += piece.length;
  return length;
}

// One piece as it is, several copied together. nullptr: no memory.
const std::byte* gather(const std::vector<Piece>& pieces, Scratch& scratch) {
  if (pieces.size() == 1) return pieces.front().data;
  std::byte* const whole = scratch.atLeast(lengthOf(pieces));
  std::byte* at = whole;
  for (const Piece& piece : pieces) {
    if (whole == nullptr) break;
    std::memcpy(at, piece.data, piece.length);
    at += piece.length;
  }
  return whole;
}

void scatter(const std::byte* from, size_t length, const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) {
    const size_t part = std::min(piece.length, length);
    std::memcpy(piece.data, from, part);
    from += part;
    length -= part;
  }
}

int64_t compress(Coder& coder, const Request& request) {
  const std::byte* from = gather(request.from, coder.input);
  const size_t room = lengthOf(request.into);
  const bool direct = request.into.size() == 1;
  std::byte* into = direct ? request.into.front().data : coder.output.atLeast(room);
  if (from == nullptr || into == nullptr) return -ENOMEM;
  const int64_t made = coder.compress(request.codec, from, lengthOf(request.from), into, room);
  if (made > 0 && !direct) scatter(into, static_cast<size_t>(made), request.into);
  return made;
}

int64_t decompress(Coder& coder, const Request& request) {
  const std::byte* from = gather(request.from, coder.input);
  const auto total = static_cast<size_t>(request.length);
  const size_t wanted = lengthOf(request.into);
  const bool direct = request.into.size() == 1 && wanted == total;
  std::byte* into = direct ? request.into.front().data : coder.output.atLeast(total);
  if (from == nullptr || into == nullptr) return -ENOMEM;
  const int64_t error = coder.decompress(request.codec, from, lengthOf(request.from), into, total);
  if (error < 0) return error;
  if (!direct) scatter(into + request.offset, wanted, request.into);
  return static_cast<int64_t>(wanted);
}

}  // namespace

void Codecs::perform(Request& request) {
  request.startedMs.store(nowMs(), std::memory_order_relaxed);
  std::unique_ptr<Coder> coder = borrow();
  request.result = request.op == Op::compress ? compress(*coder, request) : decompress(*coder, request);
  std::lock_guard guard(lock_);
  idle_.push_back(std::move(coder));
}

// The one used last, whose memory is still in a cache.
std::unique_ptr<Coder> Codecs::borrow() {
  std::lock_guard guard(lock_);
  if (idle_.empty()) return std::make_unique<Coder>();
  std::unique_ptr<Coder> coder = std::move(idle_.back());
  idle_.pop_back();
  return coder;
}

void Codecs::dropIdle() {
  std::vector<std::unique_ptr<Coder>> dropped;
  std::lock_guard guard(lock_);
  dropped.swap(idle_);
}

}  // namespace blockferry
