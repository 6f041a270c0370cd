// SPDX-License-Identifier: Apache-2.0
// Takes the packets of one multifd channel (packet-head.h) from input that may be cut anywhere, behind the channel's hello. Heads
// and data may come apart (packet-cut.h). Its caller is ScannerObject.
//
//     head
//     data: the pages, plain or as the next bytes of the channel's one compressed stream
//
// Which compression that is, the first packet with data says; all later ones have the same. Sync packets may say none.
//
// The pages of one packet come in any order (QEMU 9.0 and later move the zero ones to the end by swapping), packets ascend as
// a whole.
#pragma once

#include <memory>
#include <string>

#include "scanner.h"
#include "stream-decoder.h"

namespace blockferry {

struct ChannelMethod;

class ChannelScanner : public Scanner {
 public:
  explicit ChannelScanner(Gathering::Setup setup);

  bool within() const override { return inPacket_ || headLength_ > 0; }
  uint64_t syncs() const override { return syncs_; }
  bool inPlace() const override { return method_ != nullptr && !decoder_ && !pages.hasBegun(); }

 protected:
  ScanStop scanOn(ScanInput& heads, ScanInput& data) override;

 private:
  ScanStop judge();
  ScanStop judgeData();
  ScanStop judgeMethod(uint32_t bits);
  ScanStop judgePages();
  ScanStop judgeOrder();
  ScanStop beginPage();
  ScanStop takeData(ScanInput& input);
  ScanStop takePage(ScanInput& input);
  ScanStop takeRest(ScanInput& input);
  ScanStop takeCompressed(ScanInput& input);
  StreamDecoder::Step decode(ScanInput& input, std::byte* into, size_t room);
  std::string packet() const;
  std::string pageAt(uint64_t offset) const;
  uint32_t numberAt(size_t place) const;
  uint64_t offsetAt(size_t index) const;

  const ChannelMethod* method_ = nullptr;    // until there was a packet with data
  std::unique_ptr<StreamDecoder> decoder_;  // nullptr: pages come plain
  const size_t pagesAtMost_;
  const size_t headBytes_;
  const std::unique_ptr<std::byte[]> head_;
  size_t headLength_ = 0;
  const std::unique_ptr<uint64_t[]> sorted_;  // offsets of the pages with data
  uint64_t syncs_ = 0;

  // The packet whose data is being taken.
  bool inPacket_ = false;
  bool sync_ = false;
  const ScannedBlock* block_ = nullptr;
  size_t normal_ = 0;
  size_t zero_ = 0;
  size_t next_ = 0;      // of the normal ones, the one to begin, or that has begun
  size_t dataLeft_ = 0;  // bytes of the packet that are still to come
  bool drained_ = false;  // the decoder has nothing more without input
};

}  // namespace blockferry
