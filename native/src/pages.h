// SPDX-License-Identifier: Apache-2.0
// Pages in slots, looked at without a scanner: their digests, and whether two are alike. JS thread.
#pragma once

#include <napi.h>

namespace blockferry {

// (engine, slot, offset, length, pageSize, digests, first) → whether there is such a range, and room in digests for its pages
Napi::Value pageDigests(const Napi::CallbackInfo& info);
// (engine, slot, other slot, length, pageSize) → bits of the pages that differ, or undefined: no such range
Napi::Value pageDifferences(const Napi::CallbackInfo& info);
// (bytes, by table, crc of what comes before) → CRC-32C
Napi::Value checksum(const Napi::CallbackInfo& info);

}  // namespace blockferry
