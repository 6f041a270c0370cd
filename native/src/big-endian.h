// SPDX-License-Identifier: Apache-2.0
// Numbers as migration streams and NBD have them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace blockferry {

inline uint16_t bigEndian16(const std::byte* data) {
  uint16_t value = 0;
  std::memcpy(&value, data, sizeof value);
  return __builtin_bswap16(value);
}

inline uint32_t bigEndian32(const std::byte* data) {
  uint32_t value = 0;
  std::memcpy(&value, data, sizeof value);
  return __builtin_bswap32(value);
}

inline uint64_t bigEndian64(const std::byte* data) {
  uint64_t value = 0;
  std::memcpy(&value, data, sizeof value);
  return __builtin_bswap64(value);
}

inline void storeBigEndian16(uint16_t value, std::byte* into) {
  value = __builtin_bswap16(value);
  std::memcpy(into, &value, sizeof value);
}

inline void storeBigEndian32(uint32_t value, std::byte* into) {
  value = __builtin_bswap32(value);
  std::memcpy(into, &value, sizeof value);
}

inline void storeBigEndian64(uint64_t value, std::byte* into) {
  value = __builtin_bswap64(value);
  std::memcpy(into, &value, sizeof value);
}

}  // namespace blockferry
