// SPDX-License-Identifier: Apache-2.0
// The open verb: never blocks on what a name turns out to be, and learns what O_DIRECT wants. Also what is learned of
// descriptors that others opened.
//
// O_DIRECT is switched on after the open: open(2) with O_CREAT | O_DIRECT leaves a file behind where the file system
// refuses O_DIRECT, and a second try with O_EXCL would then find it.
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstdlib>

#include "verbs.h"

namespace blockferry {

namespace {

constexpr uint32_t kSafeAlign = 4096;
constexpr int kPipeBytes = 1 << 20;

FileKind kindOf(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFBLK: return FileKind::block;
    case S_IFCHR: return FileKind::character;
    case S_IFDIR: return FileKind::directory;
    case S_IFIFO: return FileKind::fifo;
    case S_IFSOCK: return FileKind::socket;
    default: return FileKind::file;
  }
}

int openFlags(uint32_t flags) {
  // O_NONBLOCK: opening a FIFO or a device must not wait for the other side.
  int how = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  how |= (flags & kOpenWrite) != 0 ? O_RDWR : O_RDONLY;
  if ((flags & kOpenCreate) != 0) how |= O_CREAT;
  if ((flags & kOpenExclusive) != 0) how |= O_EXCL;
  if ((flags & kOpenTruncate) != 0) how |= O_TRUNC;
  if ((flags & kOpenDirectory) != 0) how |= O_DIRECTORY;
  return how;
}

// Asked with RWF_NOWAIT for what it has; whether it knows that shows then.
bool isPipe(const File& file) { return file.kind == FileKind::fifo; }

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

int64_t probeRead(int fd, void* into, size_t length, int flags) {
  iovec piece{into, length};
  return retry([&] { return preadv2(fd, &piece, 1, 0, flags); });
}

// Smallest length a direct read accepts. A file system that accepts one byte (a hole, Btrfs, tmpfs) told us nothing.
uint32_t probeAlign(int fd, void* into) {
  if (probeRead(fd, into, 1, 0) >= 0) return kSafeAlign;
  if (probeRead(fd, into, 512, 0) >= 0) return 512;
  return probeRead(fd, into, kSafeAlign, 0) >= 0 ? kSafeAlign : 0;
}

// Sets requestAlign and memoryAlign. False: direct I/O does not work here after all.
bool learnAlignment(File& file, void* scratch) {
  const int fd = file.fd.get();
#ifdef STATX_DIOALIGN
  struct statx facts {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 && (facts.stx_mask & STATX_DIOALIGN) != 0) {
    file.requestAlign = facts.stx_dio_offset_align;
    file.memoryAlign = std::max<uint32_t>(facts.stx_dio_mem_align, 1);
    // Memory may come from anywhere in a slot; more than a page is never asked for.
    return file.requestAlign > 0 && file.requestAlign <= 65536 && file.memoryAlign <= kSafeAlign;
  }
#endif
  int sector = 0;
  if (file.kind == FileKind::block && ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0) {
    file.requestAlign = static_cast<uint32_t>(sector);
  } else {
    file.requestAlign = probeAlign(fd, scratch);
  }
  file.memoryAlign = file.requestAlign;
  return file.requestAlign > 0;
}

// The descriptor has O_DIRECT. False: it does not work here after all.
bool learnDirect(File& file) {
  const std::unique_ptr<void, FreeDeleter> scratch(std::aligned_alloc(kSafeAlign, kSafeAlign));
  if (!scratch || !learnAlignment(file, scratch.get())) return false;
  file.direct = true;
  if (probeRead(file.fd.get(), scratch.get(), kSafeAlign, RWF_NOWAIT) == -EOPNOTSUPP) file.cannot(Can::nowait);
  return true;
}

// Clears O_NONBLOCK and switches O_DIRECT on where asked for and possible.
void settleFlags(File& file, bool direct) {
  const int fd = file.fd.get();
  const int flags = fcntl(fd, F_GETFL) & ~O_NONBLOCK;
  if (direct && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0) {
    if (learnDirect(file)) return;
    file.requestAlign = 1;
    file.memoryAlign = 1;
  }
  if (!isPipe(file)) file.cannot(Can::nowait);
  fcntl(fd, F_SETFL, flags);
}

// 0 or -errno. A pipe gets the room of a slot, where it is allowed: fewer switches between those at its ends.
int64_t learnKind(File& file) {
  const int fd = file.fd.get();
  struct stat facts {};
  const int64_t known = retry([&] { return fstat(fd, &facts); });
  if (known < 0) return known;
  file.kind = kindOf(facts.st_mode);
  file.noSeek.store(file.kind != FileKind::file);
  if (file.kind == FileKind::fifo && fcntl(fd, F_GETPIPE_SZ) < kPipeBytes) fcntl(fd, F_SETPIPE_SZ, kPipeBytes);
  return 0;
}

bool isSeekable(const File& file) { return file.kind == FileKind::file || file.kind == FileKind::block; }

}  // namespace

int64_t openFile(Request& request) {
  auto file = std::make_shared<File>();
  const int64_t fd =
      retry([&] { return ::open(request.path.c_str(), openFlags(request.flags), static_cast<mode_t>(request.mode)); });
  if (fd < 0) return fd;
  file->fd = UniqueFd(static_cast<int>(fd));
  const int64_t known = learnKind(*file);
  if (known < 0) return known;
  file->without.store(request.without);
  settleFlags(*file, isSeekable(*file) && (request.flags & kOpenDirect) != 0);
  request.opened = std::move(file);
  return 0;
}

// Its flags stay as they are: whoever shares the descriptor would see them change.
int64_t adoptFile(Request& request, UniqueFd fd) {
  auto file = std::make_shared<File>();
  file->fd = std::move(fd);
  const int64_t known = learnKind(*file);
  if (known < 0) return known;
  const int flags = fcntl(file->fd.get(), F_GETFL);
  if (!isSeekable(*file) || (flags & O_DIRECT) == 0) {
    if (!isPipe(*file)) file->cannot(Can::nowait);
  } else if (!learnDirect(*file)) {
    // One that cannot be read tells nothing.
    file->direct = true;
    file->requestAlign = kSafeAlign;
    file->memoryAlign = kSafeAlign;
    file->cannot(Can::nowait);
  }
  request.opened = std::move(file);
  return 0;
}

int64_t statFile(File& file, FileFacts& facts) {
  struct stat now {};
  const int64_t result = retry([&] { return fstat(file.fd.get(), &now); });
  if (result < 0) return result;
  facts.kind = file.kind;
  facts.size = now.st_size;
  if (file.kind == FileKind::block) {
    uint64_t capacity = 0;
    const int64_t asked = retry([&] { return ioctl(file.fd.get(), BLKGETSIZE64, &capacity); });
    if (asked < 0) return asked;
    facts.size = static_cast<int64_t>(capacity);
  }
  facts.allocated = int64_t{now.st_blocks} * 512;
  facts.direct = file.direct;
  facts.requestAlign = file.requestAlign;
  facts.memoryAlign = file.memoryAlign;
  facts.device = std::to_string(file.kind == FileKind::block ? now.st_rdev : now.st_dev);
  facts.inode = std::to_string(file.kind == FileKind::block ? 0 : now.st_ino);
  return 0;
}

}  // namespace blockferry
