// SPDX-License-Identifier: Apache-2.0
// The records in which pages of memory lie in QEMU's migration stream (versions 7.2 to 10.0 checked):
//
//     be64 offset in the block | flags      flags live below the page size
//     counted name of the block             not with kRecordContinue: the block is that of the record before
//     kRecordPage: the page; kRecordZero: one byte 0; kRecordXbzrle: byte 1, be16 length, delta
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "request.h"

namespace blockferry {

constexpr uint64_t kRecordZero = 0x002;
constexpr uint64_t kRecordMemSize = 0x004;
constexpr uint64_t kRecordPage = 0x008;
constexpr uint64_t kRecordEos = 0x010;
constexpr uint64_t kRecordContinue = 0x020;
constexpr uint64_t kRecordXbzrle = 0x040;
constexpr uint64_t kRecordHook = 0x080;
constexpr uint64_t kRecordCompressed = 0x100;
constexpr uint64_t kRecordFlush = 0x200;
constexpr uint64_t kRecordFlags = 0x3ff;

// Pages of one block that follow each other: `offset` in the block, `data` where they are in memory.
struct PageRun {
  int64_t offset;
  int64_t length;
  std::byte* data;
};

// Whether these are whole pages, at least one.
bool arePages(const std::vector<PageRun>& runs, int64_t pageSize);
// Fills in `parts` and `heads` of a send of such pages; what `heads` has already stands before the first of them.
void layOutPages(Request& request, const std::vector<PageRun>& runs, int64_t pageSize);

}  // namespace blockferry
