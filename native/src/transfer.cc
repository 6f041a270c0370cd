// SPDX-License-Identifier: Apache-2.0
// read and write at any offset and length, also on a handle with O_DIRECT.
//
// Reads: the aligned middle goes straight to the caller's memory, the rest through an aligned bounce buffer.
// Writes: an aligned one goes straight through. An unaligned one (an odd edge, or the tail of a file whose size is not
// a multiple of the alignment) is done by the page cache: alone on this handle, with O_DIRECT switched off for as long
// as it takes. So the kernel reads, patches and extends exactly, no neighbour is read and written back by us, and the
// file is never longer than promised. A read that meets the switched-off flag is merely cached. The kernel keeps direct
// I/O coherent with the pages: it writes them back before, and drops them after, a direct write to the same range.
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "verbs.h"

namespace blockferry {

namespace {

constexpr int64_t kBounceBytes = 256 * 1024;
constexpr size_t kBounceAlign = 4096;
constexpr int64_t kZeroBytes = 1 << 20;

struct FreeDeleter {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Bounce = std::unique_ptr<std::byte, FreeDeleter>;

Bounce makeBounce(size_t bytes, uint32_t align) {
  const size_t unit = std::max<size_t>(kBounceAlign, align);
  return Bounce(static_cast<std::byte*>(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)));
}

bool fits(const File& file, int64_t offset, int64_t length, const std::byte* memory) {
  if (!file.direct) return true;
  return offset % file.requestAlign == 0 && length % file.requestAlign == 0 &&
         reinterpret_cast<uintptr_t>(memory) % file.memoryAlign == 0;
}

// Aligned, or cached. A short direct read that ends between two blocks is the end of the file, or is taken up again
// from the block it ended in.
int64_t readAll(File& file, int64_t offset, int64_t length, std::byte* into) {
  int64_t done = 0;
  while (done < length) {
    const int64_t got = retry([&] {
      return pread(file.fd.get(), into + done, static_cast<size_t>(length - done), offset + done);
    });
    if (got < 0) return got;
    if (got == 0) break;
    const int64_t odd = file.direct ? got % file.requestAlign : 0;
    done += got;
    if (odd == 0 || done == length) continue;
    FileFacts facts;
    const int64_t known = statFile(file, facts);
    if (known < 0) return known;
    if (offset + done >= facts.size) break;
    if (got == odd) return -EIO;
    done -= odd;
  }
  return done;
}

// Window by window through the bounce buffer:   |….[######]..|   window, aligned
//                                                    wanted
int64_t readBounced(File& file, int64_t offset, int64_t length, std::byte* into) {
  const int64_t align = file.requestAlign;
  const int64_t room = std::max(kBounceBytes / align, int64_t{2}) * align;
  const int64_t span = (offset + length + align - 1) / align * align - offset / align * align;
  const Bounce bounce = makeBounce(static_cast<size_t>(std::min(room, span)), file.requestAlign);
  if (!bounce) return -ENOMEM;
  int64_t done = 0;
  while (done < length) {
    const int64_t at = offset + done;
    const int64_t start = at / align * align;
    const int64_t end = std::min((offset + length + align - 1) / align * align, start + room);
    const int64_t got = readAll(file, start, end - start, bounce.get());
    if (got < 0) return got;
    const int64_t useful = std::min(got - (at - start), length - done);
    if (useful <= 0) break;
    std::memcpy(into + done, bounce.get() + (at - start), static_cast<size_t>(useful));
    done += useful;
    if (got < end - start) break;
  }
  return done;
}

// @param align  what a short write is rounded down to before it goes on; the bytes after that are written again
int64_t writeAll(File& file, int64_t offset, int64_t length, const std::byte* from, int64_t align) {
  int64_t done = 0;
  while (done < length) {
    const int64_t put = retry([&] {
      return pwrite(file.fd.get(), from + done, static_cast<size_t>(length - done), offset + done);
    });
    if (put < 0) return put;
    const int64_t kept = done + put == length ? put : put / align * align;
    if (kept == 0) return -ENOSPC;
    done += kept;
  }
  return done;
}

// Alone on the file.
int64_t writeCached(File& file, int64_t offset, int64_t length, const std::byte* from) {
  AlonePass pass(file.gate);
  const int flags = fcntl(file.fd.get(), F_GETFL);
  if (flags < 0 || fcntl(file.fd.get(), F_SETFL, flags & ~O_DIRECT) < 0) return -errno;
  const int64_t result = writeAll(file, offset, length, from, 1);
  fcntl(file.fd.get(), F_SETFL, flags | O_DIRECT);
  return result;
}

int64_t writeShared(File& file, int64_t offset, int64_t length, const std::byte* from) {
  SharedPass pass(file.gate);
  return writeAll(file, offset, length, from, file.direct ? file.requestAlign : 1);
}

bool partsFit(const Request& request) {
  const File& file = *request.file;
  return fits(file, request.offset, request.length, nullptr) &&
         request.everyPart([&](const std::byte* data, size_t length) {
           return fits(file, 0, static_cast<int64_t>(length), data);
         });
}

}  // namespace

int64_t readFile(File& file, int64_t offset, int64_t length, std::byte* into) {
  if (fits(file, offset, length, into)) return readAll(file, offset, length, into);
  const int64_t align = file.requestAlign;
  const int64_t middle = length / align * align;
  if (middle == 0 || !fits(file, offset, middle, into)) return readBounced(file, offset, length, into);
  const int64_t got = readAll(file, offset, middle, into);
  if (got < middle) return got;
  const int64_t rest = readBounced(file, offset + middle, length - middle, into + middle);
  return rest < 0 ? rest : middle + rest;
}

int64_t writeFile(File& file, int64_t offset, int64_t length, const std::byte* from) {
  if (fits(file, offset, length, from)) return writeShared(file, offset, length, from);
  const int64_t middle = length / file.requestAlign * file.requestAlign;
  if (middle == 0 || !fits(file, offset, middle, from)) return writeCached(file, offset, length, from);
  const int64_t put = writeShared(file, offset, middle, from);
  if (put < 0) return put;
  const int64_t rest = writeCached(file, offset + middle, length - middle, from + middle);
  return rest < 0 ? rest : length;
}

int64_t readParts(Request& request) {
  File& file = *request.file;
  const auto [data, count] = std::pair(request.parts.data(), static_cast<int>(request.parts.size()));
  int64_t result = -EAGAIN;
  if (partsFit(request)) result = retry([&] { return preadv(file.fd.get(), data, count, request.offset); });
  if (result != request.length) {
    int64_t done = 0;
    result = 0;
    request.everyPart([&](std::byte* into, size_t length) {
      const auto wanted = static_cast<int64_t>(length);
      const int64_t got = readFile(file, request.offset + done, wanted, into);
      if (got > 0) done += got;
      result = got < 0 ? got : done;
      return got == wanted;
    });
  }
  const bool scan = (request.flags & kReadScan) != 0 && result == request.length;
  return scan && request.everyPart(isZero) ? result + kReadZero : result;
}

int64_t writeParts(Request& request) {
  File& file = *request.file;
  if (partsFit(request)) {
    SharedPass pass(file.gate);
    const int count = static_cast<int>(request.parts.size());
    const int64_t put = retry([&] { return pwritev(file.fd.get(), request.parts.data(), count, request.offset); });
    if (put == request.length) return put;
  }
  int64_t done = 0;
  int64_t result = request.length;
  request.everyPart([&](const std::byte* from, size_t length) {
    const int64_t put = writeFile(file, request.offset + done, static_cast<int64_t>(length), from);
    if (put < 0) result = put;
    else done += put;
    return put >= 0;
  });
  return result;
}

int64_t writeZeroes(File& file, int64_t offset, int64_t length) {
  const Bounce zeroes = makeBounce(static_cast<size_t>(std::min(kZeroBytes, length)), file.requestAlign);
  if (!zeroes) return -ENOMEM;
  std::memset(zeroes.get(), 0, static_cast<size_t>(std::min(kZeroBytes, length)));
  int64_t done = 0;
  while (done < length) {
    const int64_t at = offset + done;
    // The first step ends on a boundary, so that an odd start makes one unaligned write and not all of them.
    const int64_t step = std::min(length - done, kZeroBytes - at % file.requestAlign);
    const int64_t put = writeFile(file, at, step, zeroes.get());
    if (put < 0) return put;
    done += step;
  }
  return length;
}

}  // namespace blockferry
