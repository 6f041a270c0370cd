// SPDX-License-Identifier: Apache-2.0
// Takes the heads out of the bytes of a multifd channel while they are received, so that the pages behind them come to lie where
// they can be written from. Part of Stream.
//
//     stream   |head|pages......|head|pages......|head|
//     memory   |pages......|pages......|            heads  |head|head|head|
//
// Nothing is judged here. A head that is wrong is wrong for ChannelScanner too, which gets it before what follows it.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace blockferry {

class PacketCut {
 public:
  // Another request. pageSize: a power of two, the same each time
  void begin(size_t pageSize);
  // Where the next bytes go: `room` bytes at `into` for data, and the next head where it follows. The number of parts.
  int aim(std::byte* into, size_t room, iovec (&parts)[2]);
  // So many bytes came there; heads that are whole are added to `heads`. How many were data.
  size_t came(size_t bytes, std::vector<std::byte>& heads);
  // There is no more: so is what there is of a head.
  void end(std::vector<std::byte>& heads);

  // Nothing but the head has come of the packet, and its data are more than that.
  bool exceeds(uint64_t room) const { return untouched_ && dataLeft_ > room; }
  // Between two pages, or heads.
  bool betweenPages() const { return headArrived_ == 0 && dataLeft_ % pageSize_ == 0; }
  // Of a packet that is a sync point all has come.
  bool synced() const { return sync_ && dataLeft_ == 0; }

 private:
  size_t pageSize_ = 1;
  std::vector<std::byte> head_;  // the one that is coming
  size_t headArrived_ = 0;
  // Of the packet whose head was the last.
  uint64_t dataLeft_ = 0;
  bool untouched_ = false;
  bool sync_ = false;
};

}  // namespace blockferry
