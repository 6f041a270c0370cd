// SPDX-License-Identifier: Apache-2.0
// The sendFilePages verb: pages of a file as records of a migration stream.
//
// The file is mapped and its pages go from the page cache into the socket: one copy, and many records for one call. They are
// faulted in before: what waits for storage is not in the middle of a send then, and what cannot be read is known while nothing is
// sent. No code of ours touches the mapping, only the kernel does: a file that was cut off meanwhile is an error there and not a
// signal. What lies between a file's end and the end of its last page is mapped too: the size says that it is not the file's.
//
// Where that cannot be (files that cannot be mapped, kernels before 5.14, streams that are storage) the pages are read.
#include <sys/mman.h>
#include <sys/stat.h>
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
    request_.markStarted();
    mapped_ = isWhole() && map();
    const int64_t result = mapped_ ? 0 : read();
    request_.startedMs.store(0, std::memory_order_relaxed);
    if (result == 0) layOutPages(request_, runs_, request_.flags);
    return result;
  }
  // Whether what was sent may have lain behind the end of the file.
  bool wasCut() const { return mapped_ && !isWhole(); }
  // Reads them all, as above.
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

 private:
  bool map() {
    if (request_.to->isStorage()) return false;
    int64_t begin = runs_.front().offset;
    for (const PageRun& run : runs_) begin = std::min(begin, run.offset);
    window_.emplace(*request_.file, request_.offset + begin, request_.offset + end());
    if (!window_->isOpen()) return false;
    for (PageRun& run : runs_) {
      run.data = window_->at(request_.offset + run.offset);
      if (!window_->faultIn(request_.offset + run.offset, run.length)) return false;
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
  // The file was cut off after its pages were found, or storage has lost them.
  if (result == -EFAULT || (result > 0 && pages.wasCut())) {
    result = pages.read();
    if (result == 0) result = -EIO;
  }
  request.parts.clear();
  if (request.failedPart >= 0) stream.end(Direction::write, result);
  return result;
}

}  // namespace blockferry
