// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli), by the processor's own instruction where it has one. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace blockferry {

// @param before  of what comes before `data`; 0 at the start
uint32_t crc32c(const std::byte* data, size_t length, uint32_t before = 0);
// The same without the instruction.
uint32_t crc32cByTable(const std::byte* data, size_t length, uint32_t before = 0);

}  // namespace blockferry
