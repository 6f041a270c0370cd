// SPDX-License-Identifier: Apache-2.0
// BLAKE2b with digests of 32 bytes and no key. Any thread.
// Source: RFC 7693.
#pragma once

#include <cstddef>
#include <cstdint>

namespace blockferry {

// What a digest has come to. Holds no pointers: it may be kept as bytes between two calls.
class Blake2b {
 public:
  static constexpr size_t kDigest = 32;

  Blake2b();
  void update(const std::byte* data, size_t length);
  // Once, at the end.
  void finish(std::byte digest[kDigest]);

 private:
  static constexpr size_t kBlock = 128;

  void compress(const std::byte* block, bool last);

  uint64_t hash_[8];
  uint64_t counted_ = 0;  // bytes compressed; none of ours has 2^64
  size_t held_ = 0;
  std::byte buffer_[kBlock] = {};
};

}  // namespace blockferry
