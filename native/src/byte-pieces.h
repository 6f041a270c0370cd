// SPDX-License-Identifier: Apache-2.0
// Bytes that JavaScript wants sent: a list of Uint8Arrays, of which a part may have gone already. JS thread only.
#pragma once

#include <napi.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace blockferry {

// Of one message.
constexpr size_t kPieces = 64;

/**
 * @param skip  bytes of the piece `first` that have gone
 * @param into  room for kPieces
 * @returns how many there are, kPieces at most; -EINVAL when `skip` is beyond the piece
 */
int64_t collectPieces(const Napi::Array& list, uint32_t first, size_t skip, iovec* into);

}  // namespace blockferry
