// SPDX-License-Identifier: Apache-2.0
// See page-scanner.h.
#include "page-scanner.h"

#include <algorithm>
#include <cstring>

#include "big-endian.h"

namespace blockferry {

namespace {

constexpr size_t kValueBytes = 8;
constexpr std::byte kXbzrleEncoding{1};
// What judge() says of a record that is in order and has nothing to stop for.
constexpr ScanStop kGoOn = ScanStop::input;

size_t lengthAt(const std::byte* data) { return static_cast<size_t>(data[0]) << 8 | static_cast<size_t>(data[1]); }

bool belongsToPage(uint64_t type) {
  return type == kRecordPage || type == kRecordZero || type == kRecordXbzrle || type == kRecordCompressed;
}

}  // namespace

PageScanner::PageScanner(Gathering::Setup setup)
    : Scanner(std::move(setup)), deltaBytes_(std::make_unique<std::byte[]>(pages.pageSize())) {}

ScanStop PageScanner::scanOn(ScanInput& input, ScanInput&) {
  for (;;) {
    ScanStop stop = kGoOn;
    if (state_ == State::head && !readHead(input, stop)) return stop;
    if (state_ == State::ready) {
      const Gathering::Begin begun = pages.begin(*block_, offset_, offset_, offset_);
      if (begun == Gathering::Begin::order) return ScanStop::order;
      if (begun == Gathering::Begin::full) return ScanStop::full;
      state_ = State::page;
      if (input.left() >= pages.pageSize()) {
        pages.addWhole(input.at);
        input.at += pages.pageSize();
      }
    }
    if (state_ == State::page && pages.hasBegun()) {
      if (!pages.hasSlot()) return ScanStop::full;
      input.at += pages.add(input.at, input.left());
      if (pages.hasBegun()) return ScanStop::input;
    }
    if (state_ == State::delta) return takeDelta(input);
    state_ = State::head;
  }
}

// True: the state says what follows, or that it is the next head. False: `stop` is to be returned.
bool PageScanner::readHead(ScanInput& input, ScanStop& stop) {
  const std::byte* head = input.at;
  const size_t whole = headLength_ == 0 ? headBytes(input.at, input.left()) : 0;
  if (whole > 0 && whole <= input.left()) {
    input.at += whole;
  } else {
    // It is cut: its bytes are brought together.
    for (size_t wanted; (wanted = headBytes(head_, headLength_)) > headLength_;) {
      const size_t more = std::min(wanted - headLength_, input.left());
      if (more == 0) return false;
      std::memcpy(head_ + headLength_, input.at, more);
      headLength_ += more;
      input.at += more;
    }
    head = head_;
    headLength_ = 0;
  }
  stop = judge(head);
  return stop == kGoOn;
}

// Bytes of the head of which `here` are at hand: when there are fewer, this many are needed to say more.
size_t PageScanner::headBytes(const std::byte* head, size_t here) {
  if (here < kValueBytes) return kValueBytes;
  const uint64_t flags = bigEndian64(head) & kRecordFlags;
  const uint64_t type = flags & ~kRecordContinue;
  if (!belongsToPage(type)) return kValueBytes;
  size_t length = kValueBytes;
  if ((flags & kRecordContinue) == 0) {
    if (here == kValueBytes) return kValueBytes + 1;
    length += 1 + static_cast<size_t>(head[kValueBytes]);
  }
  if (type == kRecordZero) return length + 1;
  return type == kRecordXbzrle ? length + 3 : length;
}

ScanStop PageScanner::judge(const std::byte* head) {
  const uint64_t value = bigEndian64(head);
  const uint64_t flags = value & kRecordFlags;
  const uint64_t type = flags & ~kRecordContinue;
  offset_ = value & ~kRecordFlags;
  if (!belongsToPage(type)) return judgeOther(flags);
  const std::byte* rest = head + kValueBytes;
  if ((flags & kRecordContinue) == 0) {
    const auto length = static_cast<size_t>(*rest);
    const auto* const name = reinterpret_cast<const char*>(rest + 1);
    rest += 1 + length;
    block_ = pages.find(name, length);
    if (block_ == nullptr) {
      return bad("a page of an unknown block " + quoted({name, length}) + " at offset " + std::to_string(offset_));
    }
  } else if (block_ == nullptr) {
    return bad("a page at offset " + std::to_string(offset_) + " continues a block, and none was named before");
  }
  return judgePage(type, rest);
}

// @param rest  of the head, behind the block
ScanStop PageScanner::judgePage(uint64_t type, const std::byte* rest) {
  if (type == kRecordCompressed) return bad(whatAndWhere("a compressed page (flag 0x100)") + ": not supported");
  if (offset_ % pages.pageSize() != 0) return bad(whatAndWhere("a page") + ": not a multiple of the page size");
  if (offset_ >= block_->length) {
    return bad(whatAndWhere("a page") + ": beyond its length of " + std::to_string(block_->length));
  }
  if (type == kRecordPage) {
    state_ = State::ready;
  } else if (type == kRecordZero) {
    const auto byte = static_cast<unsigned>(*rest);
    if (byte != 0) return bad(whatAndWhere("a zero page") + ": filled with " + std::to_string(byte));
    pages.zero(*block_, offset_);
  } else {
    deltaLength_ = lengthAt(rest + 1);
    deltaArrived_ = 0;
    if (rest[0] != kXbzrleEncoding) {
      return bad(whatAndWhere("a delta") + ": unknown encoding " + std::to_string(static_cast<unsigned>(rest[0])));
    }
    if (deltaLength_ > pages.pageSize()) {
      return bad(whatAndWhere("a delta") + ": its " + std::to_string(deltaLength_) + " bytes are more than a page");
    }
    state_ = State::delta;
  }
  return kGoOn;
}

// A record that is no page.
ScanStop PageScanner::judgeOther(uint64_t flags) {
  if (flags == kRecordEos && offset_ == 0) return ScanStop::end;
  if (flags == kRecordFlush && offset_ == 0) return ScanStop::sync;
  if (flags == kRecordMemSize) return bad("a list of blocks (flag 0x4) among pages");
  const std::string where =
      (block_ == nullptr ? "" : " behind one of block " + quoted(block_->name)) + " at offset " + std::to_string(offset_);
  if ((flags & kRecordHook) != 0) return bad("a record of RDMA (flag 0x80)" + where + ": not supported");
  return bad("a record with flags " + hex(flags) + where + ": unknown");
}

Delta PageScanner::delta() const {
  if (block_ == nullptr) return {};
  return {pages.indexOf(*block_), offset_, deltaBytes_.get(), deltaLength_};
}

ScanStop PageScanner::takeDelta(ScanInput& input) {
  const size_t more = std::min(deltaLength_ - deltaArrived_, input.left());
  std::memcpy(deltaBytes_.get() + deltaArrived_, input.at, more);
  deltaArrived_ += more;
  input.at += more;
  if (deltaArrived_ < deltaLength_) return ScanStop::input;
  ++pages.counts.delta;
  state_ = State::head;
  return ScanStop::delta;
}

std::string PageScanner::whatAndWhere(const char* what) const {
  return what + (" of block " + quoted(block_->name)) + " at offset " + std::to_string(offset_);
}

}  // namespace blockferry
