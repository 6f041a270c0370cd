// SPDX-License-Identifier: Apache-2.0
// See page-records.h.
#include "page-records.h"

#include <utility>

#include "big-endian.h"

namespace blockferry {

namespace {

constexpr size_t kHeadBytes = 8;

// Bytes of all runs; -1 when one is not made of whole pages.
int64_t lengthOf(const std::vector<PageRun>& runs, int64_t pageSize) {
  if (pageSize <= static_cast<int64_t>(kRecordFlags) || (pageSize & (pageSize - 1)) != 0) return -1;
  int64_t length = 0;
  for (const PageRun& run : runs) {
    if (run.offset % pageSize != 0 || run.length % pageSize != 0) return -1;
    length += run.length;
  }
  return length;
}

}  // namespace

bool layOutPages(Request& request, const std::vector<PageRun>& runs, int64_t pageSize, std::vector<std::byte> first) {
  const int64_t length = lengthOf(runs, pageSize);
  if (length != request.length || length == 0) return false;
  const auto pages = static_cast<size_t>(length / pageSize);
  const size_t headsAt = first.size();
  // In one piece that is never moved: the parts point into it.
  request.heads = std::move(first);
  request.heads.resize(headsAt + (pages - 1) * kHeadBytes);
  request.parts.reserve(pages * 2);
  std::byte* page = request.data;
  std::byte* head = request.heads.data();
  for (const PageRun& run : runs) {
    for (int64_t at = run.offset; at < run.offset + run.length; at += pageSize) {
      const bool isFirst = page == request.data;
      const size_t headLength = isFirst ? headsAt : kHeadBytes;
      if (!isFirst) storeBigEndian64(static_cast<uint64_t>(at) | kRecordPage | kRecordContinue, head);
      request.parts.push_back({head, headLength});
      request.parts.push_back({page, static_cast<size_t>(pageSize)});
      head += headLength;
      page += pageSize;
    }
  }
  return true;
}

}  // namespace blockferry
