// SPDX-License-Identifier: Apache-2.0
// One call of JavaScript on its way through the engine. Made on the JS thread, performed by one task (or the ring),
// read again on the JS thread; never touched by two at once, except `startedMs`.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "file.h"
#include "slot-pool.h"
#include "unique-fd.h"

namespace blockferry {

// Same order as `ops` in native/binding.ts.
enum class Op : uint32_t {
  open, close, stat, read, write, flush, truncate, extents, zero, discard,
  copyRange, reflink, lock, lockedByOthers, unlink, rename, allocate, compress, decompress, digest, adopt,
  listen, portOf, accept, connect, receive, send, lane, cached, grow, sendFile, drain, sendFilePages,
};

// Same order as `codecs` in native/words.ts.
enum class Codec : uint32_t { zlib, zstd };

// Bits of Request::flags.
constexpr uint32_t kDigestFirst = 1;
constexpr uint32_t kDigestLast = 2;
constexpr uint32_t kReadScan = 1;
constexpr uint32_t kFlushDataOnly = 1;
constexpr uint32_t kTruncateAllocate = 1;
constexpr uint32_t kTruncateNoCow = 2;
constexpr uint32_t kZeroUnmap = 1;
constexpr uint32_t kZeroFast = 2;
constexpr uint32_t kLockWrite = 1;
constexpr uint32_t kLockRead = 2;
constexpr uint32_t kAddressUnix = 0;  // `path`; else TCP: `path` is the host, `mode` the port
constexpr uint32_t kOpenWrite = 1;
constexpr uint32_t kOpenDirect = 2;
constexpr uint32_t kOpenCreate = 4;
constexpr uint32_t kOpenExclusive = 8;
constexpr uint32_t kOpenTruncate = 16;
constexpr uint32_t kOpenDirectory = 32;

// Added to the result of a scanned read; READ_ZERO in native/types.ts.
constexpr int64_t kReadZero = int64_t{1} << 32;

// Memory of a slot; never empty.
struct Piece {
  std::shared_ptr<SlotGroup> memory;
  std::byte* data = nullptr;
  size_t length = 0;
};

// Of a sendFile: bytes of its memory, then a range of its file; neither end of the range is below 0, and it is not empty.
struct FilePart {
  int64_t head = 0;
  int64_t offset = 0;
  int64_t length = 0;
};

class Batch;
class Lane;

struct Request {
  double id = 0;
  Op op = Op::stat;
  double fileId = 0;
  std::shared_ptr<File> file;
  int64_t offset = 0;
  int64_t length = 0;
  uint32_t flags = 0;  // of the op; sendFilePages: the page size

  // read, write, receive, send
  std::shared_ptr<SlotGroup> memory;
  std::byte* data = nullptr;
  // read, write, send where the memory lies apart: in its place, in the order of the file or stream
  std::vector<iovec> parts;
  // send of pages: what stands before each of them; parts point into it. receive of packets (`flags`: page size): their heads
  std::vector<std::byte> heads;
  // read, write of pieces that lie apart: `length` is the sum, the pieces are requests of their own
  std::shared_ptr<Batch> pieces;
  // one of them: the batch it belongs to, which outlives it
  Batch* batch = nullptr;
  // digest (`into`: what it has come to); compress (`length`: bytes of a unit), decompress; of what decompresses to `length` bytes those from `offset` on are wanted
  Codec codec = Codec::zlib;
  std::vector<Piece> from;
  std::vector<Piece> into;
  // lane (`file`: the disk's, `to`: the client's, `memory`: of one request's data)
  std::shared_ptr<Lane> lane;
  // sendFile (`file`: whose ranges, `to`: the stream, `memory`: of the heads, one behind the other)
  // sendFilePages (`file`, `to`: as there, `offset`: where the block lies in the file); ranges are in the block
  std::vector<FilePart> fileParts;
  // copyRange, reflink, lane, sendFile, sendFilePages
  double toFileId = 0;
  std::shared_ptr<File> to;
  int64_t toOffset = 0;
  // extents
  uint32_t limit = 0;
  // open, unlink, rename, listen, connect
  std::string path;
  uint32_t mode = 0;
  uint32_t without = 0;
  // rename
  std::string toPath;
  // adopt (`offset`: the descriptor's number in this process)
  uint64_t tag = 0;
  UniqueFd unsent;  // a copy of it, where it cannot be sent yet; JS thread only
  // receive
  int lingerMs = 0;
  // requests of a stream: the next in its direction, guarded by the stream
  Request* next = nullptr;

  // Monotonic milliseconds; 0 until it goes to the kernel.
  std::atomic<int64_t> startedMs{0};

  // Results: >= 0 or -errno, and what some verbs add.
  int64_t result = 0;
  std::vector<double> extents;
  FileFacts facts;
  std::shared_ptr<File> opened;
  int64_t failedPart = -1;  // of `fileParts`: the part whose range could not be read

  // It goes to the kernel now. Any task.
  void markStarted();
  // Calls `each(data, length)` for the memory of a read or write until one says false. Whether none did.
  template <typename Each>
  bool everyPart(Each each) const {
    if (parts.empty()) return each(data, static_cast<size_t>(length));
    for (const iovec& part : parts) {
      if (!each(static_cast<std::byte*>(part.iov_base), part.iov_len)) return false;
    }
    return true;
  }
  bool isTransfer() const { return op == Op::read || op == Op::write; }
  bool usesSlot() const { return isTransfer() || op == Op::receive || op == Op::send; }
  // Of a stream: one at a time in its direction.
  bool isStreamed() const { return op == Op::receive || op == Op::accept || direction() == Direction::write; }
  Direction direction() const {
    return op == Op::send || sendsFile() || op == Op::drain ? Direction::write : Direction::read;
  }
  bool sendsFile() const { return op == Op::sendFile || op == Op::sendFilePages; }
  const std::shared_ptr<File>& stream() const { return sendsFile() ? to : file; }
  // Waits for somebody else, who may never come. Not a matter of storage.
  bool waitsForPeer() const { return isStreamed() || op == Op::connect || op == Op::lane; }
  bool makesFile() const { return op == Op::open || op == Op::adopt || op == Op::listen || op == Op::connect; }
  bool usesTwoFiles() const {
    return op == Op::copyRange || op == Op::reflink || op == Op::lane || sendsFile();
  }
  bool namesFiles() const { return op == Op::unlink || op == Op::rename; }
  // Needs a processor and no file.
  bool isComputation() const { return op == Op::compress || op == Op::decompress || op == Op::digest; }
};

// While it lives, a request of a stream waits for storage and not for a peer.
class AtStorage {
 public:
  explicit AtStorage(Request& request) : request_(request) { request_.markStarted(); }
  AtStorage(const AtStorage&) = delete;
  AtStorage& operator=(const AtStorage&) = delete;
  ~AtStorage() {
    // Where the stream is storage too, it always does.
    if (!request_.stream()->isStorage()) request_.startedMs.store(0, std::memory_order_relaxed);
  }

 private:
  Request& request_;
};

int64_t nowMs();

}  // namespace blockferry
