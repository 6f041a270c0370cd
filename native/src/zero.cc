// SPDX-License-Identifier: Apache-2.0
// The zero and discard verbs: the ladder of ways to make a range read as zero, fastest first.
//
//     regular file, unmap    grow to the end of the range; PUNCH_HOLE; then as below
//     regular file           ZERO_RANGE; PUNCH_HOLE + allocate; beyond the end: allocate; write
//     block device           PUNCH_HOLE, also as the question whether fast zeroing exists; BLKZEROOUT; write
//
// A rung that is refused as unsupported is not tried again on this handle. On a device, ZERO_RANGE and BLKZEROOUT
// succeed even where the kernel writes every zero itself, and one such call switches PUNCH_HOLE off for every user of
// the device; asking with PUNCH_HOLE first gives a true answer and does no such harm.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "verbs.h"

namespace blockferry {

namespace {

// One call of the kernel at most: longer ones time out on some targets and cannot be seen to move.
constexpr int64_t kStepBytes = 128 << 20;

// ZeroRung in native/types.ts.
enum Rung : int64_t { hole, zeroRange, punchThenAllocate, allocateBeyondEnd, device, written };

// Tries one rung. 1: done. 0: this handle cannot do it (remembered). < 0: storage said no.
template <typename Call>
int64_t tryRung(File& file, Can what, Call call) {
  if (!file.can(what)) return 0;
  const int64_t result = retry(call);
  if (result >= 0) return 1;
  if (!isUnsupported(static_cast<int>(-result))) return result;
  file.cannot(what);
  return 0;
}

int64_t tryFallocate(File& file, Can what, int mode, int64_t offset, int64_t length) {
  return tryRung(file, what, [&] { return fallocate(file.fd.get(), mode, offset, length); });
}

int64_t tryPunch(File& file, int64_t offset, int64_t length) {
  return tryFallocate(file, Can::punchHole, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

int64_t fileSize(File& file) {
  struct stat facts {};
  const int64_t result = retry([&] { return fstat(file.fd.get(), &facts); });
  return result < 0 ? result : int64_t{facts.st_size};
}

// Makes the file reach `end`. Alone: ftruncate after a concurrent write beyond `end` would cut that off again.
// Returns the size before.
int64_t growTo(File& file, int64_t end) {
  const int64_t first = fileSize(file);
  if (first < 0 || first >= end) return first;
  AlonePass pass(file.gate);
  const int64_t size = fileSize(file);
  if (size < 0 || size >= end) return size;
  const int64_t result = retry([&] { return ftruncate(file.fd.get(), end); });
  return result < 0 ? result : size;
}

int64_t writtenOrRefused(File& file, int64_t offset, int64_t length, bool fast) {
  if (fast) return -EOPNOTSUPP;
  const int64_t result = writeZeroes(file, offset, length);
  return result < 0 ? result : written;
}

int64_t zeroKeeping(File& file, int64_t offset, int64_t length, bool fast) {
  {
    SharedPass pass(file.gate);
    int64_t done = tryFallocate(file, Can::zeroRange, FALLOC_FL_ZERO_RANGE, offset, length);
    if (done != 0) return done < 0 ? done : zeroRange;
    // Never punch where allocating is known to fail: the punched range would have to be written anyhow.
    if (file.can(Can::fallocate)) {
      done = tryPunch(file, offset, length);
      if (done < 0) return done;
      if (done > 0) {
        done = tryFallocate(file, Can::fallocate, 0, offset, length);
        if (done != 0) return done < 0 ? done : punchThenAllocate;
      }
    }
    const int64_t size = fileSize(file);
    if (size < 0) return size;
    if (offset >= size) {
      done = tryFallocate(file, Can::fallocate, 0, offset, length);
      if (done != 0) return done < 0 ? done : allocateBeyondEnd;
    }
  }
  return writtenOrRefused(file, offset, length, fast);
}

int64_t zeroUnmapping(File& file, int64_t offset, int64_t length, bool fast) {
  if (!file.can(Can::punchHole)) return zeroKeeping(file, offset, length, fast);
  const int64_t size = growTo(file, offset + length);
  if (size < 0) return size;
  if (offset >= size) return hole;
  {
    SharedPass pass(file.gate);
    const int64_t done = tryPunch(file, offset, std::min(length, size - offset));
    if (done != 0) return done < 0 ? done : hole;
  }
  return zeroKeeping(file, offset, length, fast);
}

int64_t blockZeroOut(File& file, int64_t offset, int64_t length) {
  return tryRung(file, Can::blkzeroout, [&] {
    uint64_t range[2] = {static_cast<uint64_t>(offset), static_cast<uint64_t>(length)};
    return ioctl(file.fd.get(), BLKZEROOUT, range);
  });
}

// Aligned to the device's logical blocks. One block answers the question; to give all storage back before it is
// allocated again took 20 ms for 128 MiB of a loop device, and allocating alone 0.3 ms.
int64_t zeroDevice(File& file, int64_t offset, int64_t length, int64_t block, bool unmap, bool fast) {
  {
    SharedPass pass(file.gate);
    int64_t done = tryPunch(file, offset, unmap ? length : std::min(length, block));
    if (done < 0) return done;
    if (done > 0 && unmap) return hole;
    if (done == 0 && fast) return -EOPNOTSUPP;
    done = blockZeroOut(file, offset, length);
    if (done != 0) return done < 0 ? done : device;
    done = tryPunch(file, offset, length);
    if (done != 0) return done < 0 ? done : hole;
  }
  return writtenOrRefused(file, offset, length, fast);
}

int64_t logicalBlock(File& file) {
  int sector = 0;
  return ioctl(file.fd.get(), BLKSSZGET, &sector) == 0 && sector > 0 ? sector : 512;
}

// The edges a device call does not take are written:   |..[##|########|##]..|
int64_t zeroDeviceEdges(File& file, int64_t offset, int64_t length, bool unmap, bool fast) {
  const int64_t block = logicalBlock(file);
  const int64_t start = std::min((offset + block - 1) / block * block, offset + length);
  const int64_t end = std::max((offset + length) / block * block, start);
  if (fast && (start > offset || end < offset + length)) return -EOPNOTSUPP;
  if (start > offset) {
    const int64_t put = writeZeroes(file, offset, start - offset);
    if (put < 0) return put;
  }
  const int64_t rung = end > start ? zeroDevice(file, start, end - start, block, unmap, fast) : int64_t{written};
  if (rung < 0) return rung;
  if (end < offset + length) {
    const int64_t put = writeZeroes(file, end, offset + length - end);
    if (put < 0) return put;
  }
  return rung;
}

}  // namespace

// The size it has then, or -errno. Allocating a range never shortens a file, whoever has made it longer a moment ago; where
// that cannot be, the size is looked at first.
int64_t growFile(File& file, int64_t offset, int64_t length) {
  const int64_t end = offset + length;
  const int64_t size = fileSize(file);
  if (size < 0 || size >= end) return size;
  {
    // Not between another one's look at the size and its change.
    SharedPass pass(file.gate);
    if (tryFallocate(file, Can::fallocate, 0, offset, length) > 0) return end;
  }
  const int64_t before = growTo(file, end);
  return before < 0 ? before : std::max(before, end);
}

// The slowest rung that any step needed, or -errno.
int64_t zeroFile(File& file, int64_t offset, int64_t length, uint32_t flags) {
  const bool unmap = (flags & kZeroUnmap) != 0;
  const bool fast = (flags & kZeroFast) != 0;
  int64_t slowest = hole;
  for (int64_t done = 0; done < length;) {
    // Steps end on a multiple of their size, so that only the first and the last have edges.
    const int64_t at = offset + done;
    const int64_t step = std::min(length - done, kStepBytes - at % kStepBytes);
    int64_t rung = 0;
    if (file.kind == FileKind::block) rung = zeroDeviceEdges(file, at, step, unmap, fast);
    else if (unmap) rung = zeroUnmapping(file, at, step, fast);
    else rung = zeroKeeping(file, at, step, fast);
    if (rung < 0) return rung;
    slowest = std::max(slowest, rung);
    done += step;
  }
  return slowest;
}

// 0 or -errno. Contents become undefined; parts smaller than a device's block stay as they are.
int64_t discardFile(File& file, int64_t offset, int64_t length) {
  SharedPass pass(file.gate);
  const bool isDevice = file.kind == FileKind::block;
  const int64_t block = isDevice ? logicalBlock(file) : 1;
  const int64_t end = (offset + length) / block * block;
  for (int64_t at = (offset + block - 1) / block * block; at < end;) {
    const int64_t step = std::min(end - at, kStepBytes - at % kStepBytes);
    const int64_t done = isDevice ? tryRung(file, Can::blkdiscard, [&] {
      uint64_t range[2] = {static_cast<uint64_t>(at), static_cast<uint64_t>(step)};
      return ioctl(file.fd.get(), BLKDISCARD, range);
    }) : tryPunch(file, at, step);
    if (done < 0) return done;
    if (done == 0) return -EOPNOTSUPP;
    at += step;
  }
  return 0;
}

}  // namespace blockferry
