// SPDX-License-Identifier: Apache-2.0
// See crc32c.h.
#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace blockferry {

namespace {

// Reflected.
constexpr uint32_t kPolynomial = 0x82f63b78;
constexpr size_t kWord = 8;

using Table = std::array<std::array<uint32_t, 256>, kWord>;

// [n][byte]: what `byte` becomes when n more bytes follow it.
constexpr Table makeTable() {
  Table table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[0][byte] = crc;
  }
  for (size_t more = 1; more < kWord; ++more) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t crc = table[more - 1][byte];
      table[more][byte] = (crc >> 8) ^ table[0][crc & 0xff];
    }
  }
  return table;
}

constexpr Table kTable = makeTable();

uint32_t byteAt(const std::byte* data, size_t index) { return static_cast<uint32_t>(data[index]); }

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t byInstruction(const std::byte* data, size_t length, uint32_t before) {
  uint64_t crc = ~before;
  for (; length >= kWord; length -= kWord, data += kWord) {
    uint64_t word = 0;
    std::memcpy(&word, data, sizeof word);
    crc = _mm_crc32_u64(crc, word);
  }
  auto rest = static_cast<uint32_t>(crc);
  for (; length > 0; --length, ++data) rest = _mm_crc32_u8(rest, static_cast<uint8_t>(*data));
  return ~rest;
}
#endif

}  // namespace

uint32_t crc32c(const std::byte* data, size_t length, uint32_t before) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return byInstruction(data, length, before);
#endif
  return crc32cByTable(data, length, before);
}

uint32_t crc32cByTable(const std::byte* data, size_t length, uint32_t before) {
  uint32_t crc = ~before;
  for (; length >= kWord; length -= kWord, data += kWord) {
    uint32_t next = 0;
    for (size_t index = 0; index < kWord; ++index) {
      const uint32_t byte = index < 4 ? byteAt(data, index) ^ ((crc >> (8 * index)) & 0xff) : byteAt(data, index);
      next ^= kTable[kWord - 1 - index][byte];
    }
    crc = next;
  }
  for (; length > 0; --length, ++data) crc = (crc >> 8) ^ kTable[0][(crc ^ byteAt(data, 0)) & 0xff];
  return ~crc;
}

}  // namespace blockferry
