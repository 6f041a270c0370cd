// SPDX-License-Identifier: Apache-2.0
// Takes the page records of a migration stream (page-records.h) from input that may be cut anywhere. Its caller is
// ScannerObject; what is between the sections, and the lists of blocks, are somebody else's.
// Rule: a record is looked at when its head is whole, and acted upon when the caller has made room and order for it.
#pragma once

#include <memory>
#include <string>

#include "page-records.h"
#include "scanner.h"

namespace blockferry {

class PageScanner : public Scanner {
 public:
  explicit PageScanner(Gathering::Setup setup);

  bool within() const override { return state_ != State::head || headLength_ > 0; }
  Delta delta() const override;

 protected:
  ScanStop scanOn(ScanInput& input, ScanInput& same) override;

 private:
  // 8 bytes, a counted name, and what an XBZRLE record says about itself.
  static constexpr size_t kMostHead = 8 + 1 + 255 + 3;

  enum class State {
    head,   // of the next record, of which headLength_ bytes are here
    ready,  // the head is whole: a page of data, waiting for its turn or for a slot
    page,   // some of the page is here
    delta,  // deltaArrived_ bytes of the delta are here
  };

  bool readHead(ScanInput& input, ScanStop& stop);
  static size_t headBytes(const std::byte* head, size_t here);
  ScanStop judge(const std::byte* head);
  ScanStop judgePage(uint64_t type, const std::byte* rest);
  ScanStop judgeOther(uint64_t flags);
  ScanStop takeDelta(ScanInput& input);
  std::string whatAndWhere(const char* what) const;

  State state_ = State::head;
  std::byte head_[kMostHead];
  size_t headLength_ = 0;

  // The record whose head was read last; its block is the one CONTINUE means.
  const ScannedBlock* block_ = nullptr;
  uint64_t offset_ = 0;

  const std::unique_ptr<std::byte[]> deltaBytes_;
  size_t deltaLength_ = 0;
  size_t deltaArrived_ = 0;
};

}  // namespace blockferry
