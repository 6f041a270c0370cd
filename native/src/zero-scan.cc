// SPDX-License-Identifier: Apache-2.0
// Zero scan. Blocks of 256 bytes are folded with OR, which the compiler turns into vector code; the first block that
// holds anything ends the scan, so data costs one block.
#include <cstring>

#include "verbs.h"

namespace blockferry {

namespace {
constexpr size_t kWords = 32;

// Dispatched at load time to the widest the CPU has.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(BLOCKFERRY_PLAIN_THREADS)
__attribute__((target_clones("avx2", "default")))
#endif
bool blocksAreZero(const std::byte* data, size_t blocks) {
  for (size_t block = 0; block < blocks; ++block) {
    uint64_t words[kWords];
    std::memcpy(words, data + block * sizeof words, sizeof words);
    uint64_t folded = 0;
    for (size_t word = 0; word < kWords; ++word) folded |= words[word];
    if (folded != 0) return false;
  }
  return true;
}
}  // namespace

bool isZero(const std::byte* data, size_t length) {
  constexpr size_t kBlock = kWords * sizeof(uint64_t);
  if (!blocksAreZero(data, length / kBlock)) return false;
  for (size_t at = length / kBlock * kBlock; at < length; ++at) {
    if (data[at] != std::byte{0}) return false;
  }
  return true;
}

}  // namespace blockferry
