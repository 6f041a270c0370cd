// SPDX-License-Identifier: Apache-2.0
// See byte-pieces.h.
#include "byte-pieces.h"

#include <algorithm>
#include <cerrno>

namespace blockferry {

int64_t collectPieces(const Napi::Array& list, uint32_t first, size_t skip, iovec* into) {
  const uint32_t end = std::min<uint32_t>(list.Length(), first + kPieces);
  int64_t count = 0;
  for (uint32_t index = first; index < end; ++index, skip = 0) {
    auto bytes = list.Get(index).As<Napi::Uint8Array>();
    if (skip > bytes.ByteLength()) return -EINVAL;
    into[count++] = {bytes.Data() + skip, bytes.ByteLength() - skip};
  }
  return count;
}

}  // namespace blockferry
