// SPDX-License-Identifier: Apache-2.0
// The extents verb: where a file holds data, by SEEK_DATA and SEEK_HOLE.
// A sequential pass over a file, in however many calls, asks two lseeks per data extent and one at the end: on a file
// of many extents each of them can be a walk over all that follow. So answers are given whole, beyond the asked range
// too, and where data begins that the list had no room for is remembered.
#include <sys/stat.h>
#include <unistd.h>

#include "verbs.h"

namespace blockferry {

namespace {

constexpr double kData = 1;
constexpr double kHole = 0;

int64_t seek(File& file, int64_t offset, int whence) {
  return retry([&] { return lseek(file.fd.get(), offset, whence); });
}

int64_t sizeOf(File& file) {
  FileFacts facts;
  const int64_t result = statFile(file, facts);
  return result < 0 ? result : facts.size;
}

void add(std::vector<double>& extents, int64_t offset, int64_t end, double kind) {
  extents.push_back(static_cast<double>(offset));
  extents.push_back(static_cast<double>(end - offset));
  extents.push_back(kind);
}

// Everything from `offset` on is data: what can be said where nothing can be asked.
int64_t oneExtent(File& file, int64_t offset, std::vector<double>& extents) {
  const int64_t size = sizeOf(file);
  if (size < 0) return size;
  if (offset < size) add(extents, offset, size, kData);
  return 0;
}

// Start of the data at or after `at`; `end` of the data too, when the hint spared the first question.
int64_t findData(File& file, int64_t at, int64_t& end) {
  end = -1;
  if (file.dataAt.load(std::memory_order_relaxed) == at) {
    // Somebody may have punched it since: then SEEK_HOLE stays where it is and says so.
    end = seek(file, at, SEEK_HOLE);
    if (end > at) return at;
    end = -1;
  }
  return seek(file, at, SEEK_DATA);
}

}  // namespace

int64_t listExtents(File& file, int64_t offset, int64_t length, uint32_t limit, std::vector<double>& extents) {
  if (file.noSeek.load()) return oneExtent(file, offset, extents);
  const size_t room = size_t{limit} * 3;
  int64_t at = offset;
  while (at < offset + length && extents.size() < room) {
    int64_t end = -1;
    const int64_t data = findData(file, at, end);
    if (data == -ENXIO) {  // no data from here on
      const int64_t size = sizeOf(file);
      if (size < 0) return size;
      if (at < size) add(extents, at, size, kHole);
      return 0;
    }
    if (data == -EINVAL || (data < 0 && isUnsupported(static_cast<int>(-data))) || data == -ESPIPE) {
      file.noSeek.store(true);
      return oneExtent(file, at, extents);
    }
    if (data < 0) return data;
    if (data > at) add(extents, at, data, kHole);
    at = data;
    if (at >= offset + length || extents.size() >= room) {
      file.dataAt.store(at, std::memory_order_relaxed);
      return 0;
    }
    if (end < 0) end = seek(file, at, SEEK_HOLE);
    if (end == -ENXIO) return 0;  // truncated meanwhile: the caller finds the end with its next question
    if (end < 0) return end;
    add(extents, at, end, kData);
    at = end;
  }
  return 0;
}

}  // namespace blockferry
