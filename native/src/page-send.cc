// SPDX-License-Identifier: Apache-2.0
// The sendFilePages verb: pages of a file as records of a migration stream.
//
// The file is mapped and its pages go from the page cache into the socket: one copy, and many records for one call. They are
// faulted in before: what cannot be read is known while nothing is sent, but for what leaves the cache meanwhile. No code of ours touches the mapping, only the kernel does: a file that was cut off meanwhile is an error there and not a
// signal. What lies between a file's end and the end of its last page is mapped too: the size says that it is not the file's.
//
// Only files of local file systems are mapped: mmap() asks a network file system for the file, and all threads of the process that need
// memory would wait for its server. Of other files the pages are read, as with kernels before 5.14, and for streams that are storage.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include "page-records.h"
#include "stream-verbs.h"
#include "verbs.h"

namespace blockferry {

namespace {

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

bool isLocal(const File& file) {
  if (file.kind == FileKind::block) return true;
  constexpr uint32_t kXfs = 0x58465342;  // in no header that is everywhere
  struct statfs facts {};
  if (fstatfs(file.fd.get(), &facts) != 0) return false;
  const auto type = static_cast<uint32_t>(facts.f_type);
  return type == EXT4_SUPER_MAGIC || type == kXfs || type == BTRFS_SUPER_MAGIC || type == TMPFS_MAGIC;
}

// While it lives, what of the file lies between two offsets has an address.
class Window {
 public:
  Window(const File& file, int64_t begin, int64_t end) : begin_(begin - begin % sysconf(_SC_PAGESIZE)) {
    length_ = static_cast<size_t>(end - begin_);
    base_ = mmap(nullptr, length_, PROT_READ, MAP_SHARED, file.fd.get(), static_cast<off_t>(begin_));
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  ~Window() {
    if (isOpen()) munmap(base_, length_);
  }

  bool isOpen() const { return base_ != MAP_FAILED; }
  std::byte* at(int64_t offset) const { return static_cast<std::byte*>(base_) + (offset - begin_); }
  // Whether all of it is in memory now.
  bool faultIn(int64_t offset, int64_t length) const {
    std::byte* const first = at(offset);
    const size_t lead = reinterpret_cast<uintptr_t>(first) % static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return madvise(first - lead, static_cast<size_t>(length) + lead, MADV_POPULATE_READ) == 0;
  }

 private:
  int64_t begin_;
  size_t length_ = 0;
  void* base_ = MAP_FAILED;
};

// The pages of a request: where they can be sent from.
class FilePages {
 public:
  explicit FilePages(Request& request) : request_(request) {
    for (const FilePart& part : request.fileParts) runs_.push_back({part.offset, part.length, nullptr});
  }

  // 0, or -errno of the file and the request's `failedPart`.
  int64_t find() {
    const AtStorage waiting(request_);
    mapped_ = isWhole() && map();
    const int64_t result = mapped_ ? 0 : read();
    if (result == 0) layOutPages(request_, runs_, request_.flags);
    return result;
  }
  // Whether what was sent may have lain behind the end of the file.
  bool wasCut() const {
    const AtStorage waiting(request_);
    return mapped_ && !isWhole();
  }
  // What has become of pages that were there: as above, and never 0.
  int64_t lost() {
    const AtStorage waiting(request_);
    const int64_t result = read();
    if (result < 0) return result;
    request_.failedPart = 0;
    return -EIO;
  }

 private:
  int64_t read() {
    copied_.resize(static_cast<size_t>(request_.length));
    std::byte* data = copied_.data();
    for (PageRun& run : runs_) {
      const int64_t got = readFile(*request_.file, request_.offset + run.offset, run.length, data);
      if (got < run.length) {
        request_.failedPart = &run - runs_.data();
        return got < 0 ? got : -EIO;
      }
      run.data = data;
      data += run.length;
    }
    return 0;
  }

  bool map() {
    File& file = *request_.file;
    if (request_.to->isStorage() || !file.can(Can::map)) return false;
    if (!isLocal(file)) file.cannot(Can::map);
    return file.can(Can::map) && mapAll(file);
  }

  bool mapAll(File& file) {
    int64_t begin = runs_.front().offset;
    for (const PageRun& run : runs_) begin = std::min(begin, run.offset);
    window_.emplace(file, request_.offset + begin, request_.offset + end());
    if (!window_->isOpen()) return false;
    for (PageRun& run : runs_) {
      run.data = window_->at(request_.offset + run.offset);
      if (window_->faultIn(request_.offset + run.offset, run.length)) continue;
      if (errno == EINVAL) file.cannot(Can::map);
      return false;
    }
    return true;
  }

  // Whether the file reaches as far as they do. Of what is no file nobody cuts anything off.
  bool isWhole() const {
    struct stat now {};
    const File& file = *request_.file;
    if (file.kind != FileKind::file) return true;
    return fstat(file.fd.get(), &now) == 0 && now.st_size >= request_.offset + end();
  }

  int64_t end() const {
    int64_t end = 0;
    for (const PageRun& run : runs_) end = std::max(end, run.offset + run.length);
    return end;
  }

  Request& request_;
  std::vector<PageRun> runs_;
  std::optional<Window> window_;
  std::vector<std::byte> copied_;
  bool mapped_ = false;
};

}  // namespace

int64_t sendFilePagesTo(Request& request, const Ending& ending) {
  Stream& stream = request.to->stream;
  const int64_t ended = stream.ended(Direction::write);
  if (ended != Stream::kGoesOn) return ended;
  FilePages pages(request);
  int64_t result = pages.find();
  if (result == 0) result = sendTo(request, ending);
  if (result == -EFAULT || (result > 0 && pages.wasCut())) result = pages.lost();
  request.parts.clear();
  if (request.failedPart >= 0) stream.end(Direction::write, result);
  return result;
}

}  // namespace blockferry
