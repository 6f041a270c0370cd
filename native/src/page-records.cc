// SPDX-License-Identifier: Apache-2.0
// See page-records.h.
#include "page-records.h"

#include "big-endian.h"

namespace blockferry {

namespace {

constexpr size_t kHeadBytes = 8;

}  // namespace

bool arePages(const std::vector<PageRun>& runs, int64_t pageSize) {
  if (pageSize <= static_cast<int64_t>(kRecordFlags) || (pageSize & (pageSize - 1)) != 0) return false;
  int64_t length = 0;
  for (const PageRun& run : runs) {
    if (run.offset % pageSize != 0 || run.length % pageSize != 0) return false;
    length += run.length;
  }
  return length > 0;
}

void layOutPages(Request& request, const std::vector<PageRun>& runs, int64_t pageSize) {
  int64_t length = 0;
  for (const PageRun& run : runs) length += run.length;
  const auto pages = static_cast<size_t>(length / pageSize);
  size_t headLength = request.heads.size();
  // In one piece that is not moved any more: the parts point into it.
  request.heads.resize(headLength + (pages - 1) * kHeadBytes);
  request.parts.reserve(pages * 2);
  std::byte* head = request.heads.data();
  for (const PageRun& run : runs) {
    for (int64_t at = 0; at < run.length; at += pageSize) {
      const bool isFirst = request.parts.empty();
      if (!isFirst) storeBigEndian64(static_cast<uint64_t>(run.offset + at) | kRecordPage | kRecordContinue, head);
      request.parts.push_back({head, headLength});
      request.parts.push_back({run.data + at, static_cast<size_t>(pageSize)});
      head += headLength;
      headLength = kHeadBytes;
    }
  }
}

}  // namespace blockferry
