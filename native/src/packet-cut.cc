// SPDX-License-Identifier: Apache-2.0
// See packet-cut.h.
#include "packet-cut.h"

#include <algorithm>

#include "packet-head.h"

namespace blockferry {

void PacketCut::begin(size_t pageSize) {
  if (dataLeft_ == 0) sync_ = false;
  if (!head_.empty()) return;
  pageSize_ = pageSize;
  head_.resize(packetHeadBytes(pageSize));
}

int PacketCut::aim(std::byte* into, size_t room, iovec (&parts)[2]) {
  int count = 0;
  const size_t data = static_cast<size_t>(std::min<uint64_t>(dataLeft_, room));
  if (data > 0) parts[count++] = {into, data};
  // Whoever comes to a sync point is to have nothing from behind it.
  if (data == dataLeft_ && !sync_) parts[count++] = {head_.data() + headArrived_, head_.size() - headArrived_};
  return count;
}

size_t PacketCut::came(size_t bytes, std::vector<std::byte>& heads) {
  const size_t data = static_cast<size_t>(std::min<uint64_t>(dataLeft_, bytes));
  dataLeft_ -= data;
  if (data > 0) untouched_ = false;
  headArrived_ += bytes - data;
  if (headArrived_ < head_.size()) return data;
  heads.insert(heads.end(), head_.begin(), head_.end());
  headArrived_ = 0;
  dataLeft_ = packetDataBytes(head_.data());
  untouched_ = true;
  sync_ = (bigEndian32(head_.data() + kAtFlags) & kFlagSync) != 0;
  return data;
}

void PacketCut::end(std::vector<std::byte>& heads) {
  heads.insert(heads.end(), head_.data(), head_.data() + headArrived_);
  headArrived_ = 0;
}

}  // namespace blockferry
