// SPDX-License-Identifier: Apache-2.0
// See verbs.h: the table of verbs and those that are one system call.
#include "verbs.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stream-verbs.h"

namespace blockferry {

namespace {

int64_t closeFile(File& file) {
  // Linux has closed the descriptor whatever it answers, EINTR included.
  return ::close(file.stream.release(file.fd)) < 0 && errno != EINTR ? -errno : 0;
}

int64_t flushFile(File& file, bool dataOnly) {
  const int earlier = file.flushError.load();
  if (earlier != 0) return earlier;
  const int64_t result = retry([&] { return dataOnly ? fdatasync(file.fd.get()) : fsync(file.fd.get()); });
  if (result < 0) file.flushError.store(static_cast<int>(result));
  return result;
}

int64_t truncateFile(File& file, int64_t size, bool allocate) {
  if (allocate && size > 0) {
    if (!file.can(Can::fallocate)) return -EOPNOTSUPP;
    const int64_t result = retry([&] { return fallocate(file.fd.get(), 0, 0, size); });
    if (result < 0) return result;
  }
  return retry([&] { return ftruncate(file.fd.get(), size); });
}

// Btrfs takes the mark of files that are still empty only. Elsewhere it means nothing, so a refusal is none.
int64_t emptyWithoutCow(File& file) {
  const int64_t result = retry([&] { return ftruncate(file.fd.get(), 0); });
  int flags = 0;
  if (result < 0 || ioctl(file.fd.get(), FS_IOC_GETFLAGS, &flags) != 0) return result;
  flags |= FS_NOCOW_FL;
  static_cast<void>(ioctl(file.fd.get(), FS_IOC_SETFLAGS, &flags));
  return result;
}

int64_t allocateRange(File& file, int64_t offset, int64_t length) {
  if (!file.can(Can::fallocate)) return -EOPNOTSUPP;
  return retry([&] { return fallocate(file.fd.get(), FALLOC_FL_KEEP_SIZE, offset, length); });
}

int64_t copyRange(Request& request) {
  if (!request.file->can(Can::copyRange)) return -EOPNOTSUPP;
  SharedPass pass(request.to->gate);
  loff_t from = request.offset;
  loff_t to = request.toOffset;
  return retry([&] {
    return copy_file_range(request.file->fd.get(), &from, request.to->fd.get(), &to,
                           static_cast<size_t>(request.length), 0);
  });
}

int64_t reflink(Request& request) {
  if (!request.file->can(Can::reflink)) return -EOPNOTSUPP;
  SharedPass pass(request.to->gate);
  file_clone_range range{};
  range.src_fd = request.file->fd.get();
  range.src_offset = static_cast<uint64_t>(request.offset);
  range.src_length = static_cast<uint64_t>(request.length);
  range.dest_offset = static_cast<uint64_t>(request.toOffset);
  return retry([&] { return ioctl(request.to->fd.get(), FICLONERANGE, &range); });
}

// cachestat(2), which the C library does not know yet.
int64_t cachedBytes(File& file) {
  constexpr long kCachestat = 451;
  struct {
    uint64_t offset = 0;
    uint64_t length = 0;  // to the end
  } range;
  struct {
    uint64_t cached, dirty, writeback, evicted, recentlyEvicted;
  } pages{};
  const int64_t result = retry([&] { return syscall(kCachestat, file.fd.get(), &range, &pages, 0U); });
  return result < 0 ? result : static_cast<int64_t>(pages.cached) * sysconf(_SC_PAGESIZE);
}

// Open file description locks: they belong to the handle, not to the process, and end with it.
int64_t lockFile(Request& request, bool ask) {
  struct flock lock {};
  lock.l_type = F_UNLCK;
  if (ask || request.flags == kLockWrite) lock.l_type = F_WRLCK;
  else if (request.flags == kLockRead) lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = request.offset;
  lock.l_len = request.length;
  const int64_t result =
      retry([&] { return fcntl(request.file->fd.get(), ask ? F_OFD_GETLK : F_OFD_SETLK, &lock); });
  if (result < 0 || !ask) return result;
  return lock.l_type == F_UNLCK ? 0 : 1;
}

int64_t readVerb(Request& request) {
  if (!request.parts.empty()) return readParts(request);
  const int64_t result = readFile(*request.file, request.offset, request.length, request.data);
  if ((request.flags & kReadScan) == 0 || result <= 0) return result;
  return isZero(request.data, static_cast<size_t>(result)) ? result + kReadZero : result;
}

int64_t writeVerb(Request& request) {
  if (!request.parts.empty()) return writeParts(request);
  return writeFile(*request.file, request.offset, request.length, request.data);
}

}  // namespace

bool isUnsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == ENODEV;
}

void perform(Request& request) {
  request.markStarted();
  File* file = request.file.get();
  const auto verb = [&]() -> int64_t {
    switch (request.op) {
      case Op::open: return openFile(request);
      case Op::close: return closeFile(*file);
      case Op::stat: return statFile(*file, request.facts);
      case Op::read: return readVerb(request);
      case Op::write: return writeVerb(request);
      case Op::flush: return flushFile(*file, request.flags == kFlushDataOnly);
      case Op::truncate:
        if (request.flags == kTruncateNoCow) return emptyWithoutCow(*file);
        return truncateFile(*file, request.length, request.flags == kTruncateAllocate);
      case Op::extents: return listExtents(*file, request.offset, request.length, request.limit, request.extents);
      case Op::zero: return zeroFile(*file, request.offset, request.length, request.flags);
      case Op::discard: return discardFile(*file, request.offset, request.length);
      case Op::copyRange: return copyRange(request);
      case Op::reflink: return reflink(request);
      case Op::lock: return lockFile(request, false);
      case Op::lockedByOthers: return lockFile(request, true);
      case Op::unlink: return retry([&] { return ::unlink(request.path.c_str()); });
      case Op::rename: return retry([&] { return ::rename(request.path.c_str(), request.toPath.c_str()); });
      case Op::grow: return growFile(*file, request.offset, request.length);
      case Op::allocate: return allocateRange(*file, request.offset, request.length);
      case Op::cached: return cachedBytes(*file);
      case Op::compress:
      case Op::digest:
      case Op::decompress: break;  // Codecs does them
      case Op::listen: return listenAt(request);
      case Op::portOf: return portOf(*file);
      case Op::adopt:
      case Op::accept:
      case Op::connect:
      case Op::receive:
      case Op::send:
      case Op::sendFile:
      case Op::sendFilePages:
      case Op::drain:
      case Op::lane: break;  // Streams does them
    }
    return -ENOSYS;
  };
  request.result = verb();
}

}  // namespace blockferry
