// SPDX-License-Identifier: Apache-2.0
// See blake2b.h.
#include "blake2b.h"

#include <algorithm>
#include <cstring>

namespace blockferry {

namespace {

constexpr uint64_t kStart[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

constexpr uint8_t kOrder[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};
constexpr int kRounds = 12;
// One lane of parameters: 32 bytes of digest, no key, no tree.
constexpr uint64_t kParameters = 0x01010000 ^ Blake2b::kDigest;

uint64_t turned(uint64_t word, int bits) { return (word >> bits) | (word << (64 - bits)); }

// Words are little-endian; so is every machine this is built for, and elsewhere the bytes are put together.
uint64_t wordAt(const std::byte* at) {
  uint64_t word = 0;
  for (int byte = 7; byte >= 0; --byte) word = (word << 8) | static_cast<uint64_t>(at[byte]);
  return word;
}

void mix(uint64_t* v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
  v[a] += v[b] + x;
  v[d] = turned(v[d] ^ v[a], 32);
  v[c] += v[d];
  v[b] = turned(v[b] ^ v[c], 24);
  v[a] += v[b] + y;
  v[d] = turned(v[d] ^ v[a], 16);
  v[c] += v[d];
  v[b] = turned(v[b] ^ v[c], 63);
}

}  // namespace

Blake2b::Blake2b() {
  std::memcpy(hash_, kStart, sizeof hash_);
  hash_[0] ^= kParameters;
}

// The last block is compressed as such, so one is held back until more comes.
void Blake2b::update(const std::byte* data, size_t length) {
  while (length > 0) {
    if (held_ == kBlock) {
      counted_ += kBlock;
      compress(buffer_, false);
      held_ = 0;
    }
    if (held_ == 0) {
      for (; length > kBlock; data += kBlock, length -= kBlock) {
        counted_ += kBlock;
        compress(data, false);
      }
    }
    const size_t part = std::min(kBlock - held_, length);
    std::memcpy(buffer_ + held_, data, part);
    held_ += part;
    data += part;
    length -= part;
  }
}

void Blake2b::finish(std::byte digest[kDigest]) {
  counted_ += held_;
  std::memset(buffer_ + held_, 0, kBlock - held_);
  compress(buffer_, true);
  for (size_t byte = 0; byte < kDigest; ++byte) digest[byte] = static_cast<std::byte>(hash_[byte / 8] >> (8 * (byte % 8)));
}

void Blake2b::compress(const std::byte* block, bool last) {
  uint64_t m[16];
  for (int word = 0; word < 16; ++word) m[word] = wordAt(block + 8 * word);
  uint64_t v[16];
  for (int word = 0; word < 8; ++word) {
    v[word] = hash_[word];
    v[word + 8] = kStart[word];
  }
  v[12] ^= counted_;
  if (last) v[14] = ~v[14];
  for (int round = 0; round < kRounds; ++round) {
    const uint8_t* s = kOrder[round % 10];
    mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
    mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
    mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
    mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
    mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
    mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
    mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
    mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
  }
  for (int word = 0; word < 8; ++word) hash_[word] ^= v[word] ^ v[word + 8];
}

}  // namespace blockferry
