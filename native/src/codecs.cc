// SPDX-License-Identifier: Apache-2.0
// See codecs.h.
#include "codecs.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>

#include "blake2b.h"

namespace blockferry {

namespace {

// Of the size of a unit in front of what was compressed, little-endian.
constexpr size_t kSizeBytes = 4;

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

// Unit by unit, so that a long run costs one request: the sizes come first, then, from `offset` on, the units one
// behind the other.
int64_t compressUnits(Coder& coder, const Request& request, const std::byte* from, std::byte* into, size_t room) {
  const size_t total = lengthOf(request.from);
  const auto unit = static_cast<size_t>(request.length);
  auto at = static_cast<size_t>(request.offset);
  if (room < at || at / kSizeBytes < (total + unit - 1) / unit) return -EINVAL;
  for (size_t done = 0, index = 0; done < total; done += unit, index++) {
    const size_t length = std::min(unit, total - done);
    const int64_t made = coder.compress(request.codec, from + done, length, into + at, std::min(length - 1, room - at));
    if (made < 0 && made != -ENOSPC) return made;
    const auto size = static_cast<uint32_t>(std::max<int64_t>(made, 0));
    for (size_t byte = 0; byte < kSizeBytes; byte++)
      into[index * kSizeBytes + byte] = static_cast<std::byte>(size >> (8 * byte));
    at += size;
  }
  return static_cast<int64_t>(at);
}

int64_t compress(Coder& coder, const Request& request) {
  const std::byte* from = gather(request.from, coder.input);
  const size_t room = lengthOf(request.into);
  const bool direct = request.into.size() == 1;
  std::byte* into = direct ? request.into.front().data : coder.output.atLeast(room);
  if (from == nullptr || into == nullptr) return -ENOMEM;
  const int64_t made = compressUnits(coder, request, from, into, room);
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

// The state lies in the caller's memory between two calls; the digest takes its place in the end.
int64_t digest(const Request& request) {
  static_assert(std::is_trivially_copyable_v<Blake2b>);
  if (request.into.size() != 1 || request.into.front().length < sizeof(Blake2b)) return -EINVAL;
  std::byte* const kept = request.into.front().data;
  Blake2b state;
  if ((request.flags & kDigestFirst) == 0) std::memcpy(&state, kept, sizeof state);
  for (const Piece& piece : request.from) state.update(piece.data, piece.length);
  if ((request.flags & kDigestLast) != 0) {
    state.finish(kept);
  } else {
    std::memcpy(kept, &state, sizeof state);
  }
  return 0;
}

}  // namespace

void Codecs::perform(Request& request) {
  request.markStarted();
  if (request.op == Op::digest) {
    request.result = digest(request);
    return;
  }
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
