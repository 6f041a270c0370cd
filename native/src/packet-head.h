// SPDX-License-Identifier: Apache-2.0
// The head of a packet of a multifd channel (QEMU 7.2 to 10.0 checked), numbers big-endian:
//
//     magic, version, flags, pages there is room for, pages with data, bytes of data, be64 number, zero pages, 28 bytes 0,
//     256 bytes name of the block, 512 KiB / page size be64 offsets: of the pages with data, then of the zero ones
//
// A packet without pages of data has no bytes of it, whatever its head claims: QEMU 7.2 leaves the last packet's there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "big-endian.h"

namespace blockferry {

constexpr size_t kPacketPages = 512 * 1024;  // bytes of pages of one packet, at most

// Places in the head.
constexpr size_t kAtMagic = 0;
constexpr size_t kAtVersion = 4;
constexpr size_t kAtFlags = 8;
constexpr size_t kAtNormal = 16;
constexpr size_t kAtSize = 20;
constexpr size_t kAtNumber = 24;
constexpr size_t kAtZero = 32;
constexpr size_t kAtName = 64;
constexpr size_t kNameBytes = 256;
constexpr size_t kAtOffsets = kAtName + kNameBytes;

constexpr uint32_t kFlagSync = 0x01;

inline size_t packetPages(size_t pageSize) { return std::max<size_t>(kPacketPages / pageSize, 1); }

inline size_t packetHeadBytes(size_t pageSize) { return kAtOffsets + 8 * packetPages(pageSize); }

// What the head says of itself; whether it is true is for others to judge.
inline uint32_t packetDataBytes(const std::byte* head) {
  return bigEndian32(head + kAtNormal) == 0 ? 0 : bigEndian32(head + kAtSize);
}

}  // namespace blockferry
