// SPDX-License-Identifier: Apache-2.0
// See channel-scanner.h.
#include "channel-scanner.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "big-endian.h"
#include "packet-head.h"

namespace blockferry {

// Compression of a channel.
struct ChannelMethod {
  const char* name;
  uint32_t bits;  // of the flags of packets with data
  // nullptr: pages come plain, or the method is known and not read here.
  std::unique_ptr<StreamDecoder> (*makeDecoder)(std::string& problem);
  bool readable;
};

namespace {

constexpr uint32_t kMagic = 0x11223344;
constexpr uint32_t kVersion = 1;

constexpr uint32_t kMethodBits = 0x3e;
constexpr uint32_t kFlagDeviceState = 0x40;
constexpr ChannelMethod kMethods[] = {
    {"none", 0, nullptr, true},         {"zlib", 0x02, makeZlibDecoder, true}, {"zstd", 0x04, makeZstdDecoder, true},
    {"qpl", 0x08, nullptr, false},      {"uadk", 0x10, nullptr, false},        {"qatzip", 0x20, nullptr, false},
};

// What judging says of a packet that is in order.
constexpr ScanStop kGoOn = ScanStop::input;

// nullptr: there is none.
const ChannelMethod* methodOf(uint32_t bits) {
  const auto* const found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                         [&](const ChannelMethod& each) { return each.bits == bits; });
  return found == std::end(kMethods) ? nullptr : found;
}

}  // namespace

ChannelScanner::ChannelScanner(Gathering::Setup setup)
    : Scanner(std::move(setup)),
      pagesAtMost_(packetPages(pages.pageSize())),
      headBytes_(packetHeadBytes(pages.pageSize())),
      head_(std::make_unique<std::byte[]>(headBytes_)),
      sorted_(std::make_unique<uint64_t[]>(pagesAtMost_)) {}

ScanStop ChannelScanner::scanOn(ScanInput& heads, ScanInput& data) {
  for (;;) {
    if (!inPacket_) {
      const size_t more = std::min(headBytes_ - headLength_, heads.left());
      if (more > 0) std::memcpy(head_.get() + headLength_, heads.at, more);
      headLength_ += more;
      heads.at += more;
      if (headLength_ < headBytes_) return ScanStop::input;
      const ScanStop judged = judge();
      if (judged != kGoOn) return judged;
      headLength_ = 0;
      inPacket_ = true;
    }
    const ScanStop stop = takeData(data);
    if (stop != kGoOn || next_ < normal_ || dataLeft_ > 0) return stop;
    inPacket_ = false;
    if (!sync_) continue;
    ++syncs_;
    return ScanStop::sync;
  }
}

// Looks at all of the head before anything is done. Zero pages are done then: they come first.
ScanStop ChannelScanner::judge() {
  if (numberAt(kAtMagic) != kMagic) return bad("a packet with magic " + hex(numberAt(kAtMagic)) + " instead of " + hex(kMagic));
  if (numberAt(kAtVersion) != kVersion) return bad("a packet of version " + std::to_string(numberAt(kAtVersion)));
  const uint32_t flags = numberAt(kAtFlags);
  if ((flags & kFlagDeviceState) != 0) return bad("a packet of device state (flag 0x40): not supported");
  if ((flags & ~(kFlagSync | kMethodBits)) != 0) return bad(packet() + " has unknown flags " + hex(flags));
  sync_ = (flags & kFlagSync) != 0;
  normal_ = numberAt(kAtNormal);
  zero_ = numberAt(kAtZero);
  next_ = 0;
  if (normal_ > pagesAtMost_ || zero_ > pagesAtMost_ - normal_) {
    return bad(packet() + " has " + std::to_string(normal_) + " pages and " + std::to_string(zero_) +
               " zero pages, more than " + std::to_string(pagesAtMost_) + " in all");
  }
  const ScanStop judged = judgeData();
  return judged == kGoOn ? judgePages() : judged;
}

ScanStop ChannelScanner::judgeData() {
  dataLeft_ = packetDataBytes(head_.get());
  if (normal_ == 0) return kGoOn;
  const ScanStop judged = judgeMethod(numberAt(kAtFlags) & kMethodBits);
  if (judged != kGoOn) return judged;
  if (!decoder_ && dataLeft_ != normal_ * pages.pageSize()) {
    return bad(packet() + " has " + std::to_string(dataLeft_) + " bytes for " + std::to_string(normal_) + " pages");
  }
  return kGoOn;
}

ScanStop ChannelScanner::judgeMethod(uint32_t bits) {
  if (method_ != nullptr && method_->bits == bits) return kGoOn;
  const ChannelMethod* const method = methodOf(bits);
  const std::string compressed = packet() + " is compressed with " + (method == nullptr ? hex(bits) : quoted(method->name));
  if (method_ != nullptr) return bad(compressed + " instead of " + quoted(method_->name));
  if (method == nullptr || !method->readable) return bad(compressed + ": not supported");
  std::string problem;
  if (method->makeDecoder != nullptr) decoder_ = method->makeDecoder(problem);
  if (!problem.empty()) return bad(compressed + ": " + problem);
  method_ = method;
  return kGoOn;
}

ScanStop ChannelScanner::judgePages() {
  if (normal_ + zero_ == 0) return kGoOn;
  const auto* const name = reinterpret_cast<const char*>(head_.get() + kAtName);
  const size_t length = strnlen(name, kNameBytes);
  block_ = pages.find(name, length);
  if (block_ == nullptr) return bad(packet() + " is of an unknown block " + quoted({name, length}));
  for (size_t index = 0; index < normal_ + zero_; ++index) {
    const uint64_t offset = offsetAt(index);
    if (offset % pages.pageSize() != 0) return bad(pageAt(offset) + ": not a multiple of the page size");
    if (offset >= block_->length) return bad(pageAt(offset) + ": beyond its length of " + std::to_string(block_->length));
  }
  const ScanStop judged = judgeOrder();
  if (judged != kGoOn) return judged;
  for (size_t index = normal_; index < normal_ + zero_; ++index) pages.zero(*block_, offsetAt(index));
  return kGoOn;
}

// A page that came twice in one packet would be written twice at once.
ScanStop ChannelScanner::judgeOrder() {
  uint64_t* const end = sorted_.get() + normal_;
  for (size_t index = 0; index < normal_; ++index) sorted_[index] = offsetAt(index);
  if (!std::is_sorted(sorted_.get(), end)) std::sort(sorted_.get(), end);
  const uint64_t* const twice = std::adjacent_find(sorted_.get(), end);
  return twice == end ? kGoOn : bad(pageAt(*twice) + " twice");
}

ScanStop ChannelScanner::beginPage() {
  const uint64_t offset = offsetAt(next_);
  if (next_ > 0) return pages.beginNext(*block_, offset) ? kGoOn : ScanStop::full;
  switch (pages.begin(*block_, offset, sorted_[0], sorted_[normal_ - 1])) {
    case Gathering::Begin::order: return ScanStop::order;
    case Gathering::Begin::full: return ScanStop::full;
    case Gathering::Begin::taken: break;
  }
  return kGoOn;
}

// kGoOn: all that there is of it has been taken.
ScanStop ChannelScanner::takeData(ScanInput& input) {
  for (; next_ < normal_; ++next_) {
    ScanStop stop = pages.hasBegun() ? kGoOn : beginPage();
    if (stop != kGoOn) return stop;
    stop = takePage(input);
    if (stop != kGoOn || pages.hasBegun()) return stop;
  }
  return decoder_ ? takeRest(input) : kGoOn;
}

// Bytes of the page that has begun.
ScanStop ChannelScanner::takePage(ScanInput& input) {
  if (!pages.hasSlot()) return ScanStop::full;
  if (decoder_) return takeCompressed(input);
  const size_t before = input.left();
  if (pages.lacking() == pages.pageSize() && before >= pages.pageSize()) {
    pages.addWhole(input.at);
    input.at += pages.pageSize();
  } else {
    input.at += pages.add(input.at, before);
  }
  dataLeft_ -= before - input.left();
  return kGoOn;
}

ScanStop ChannelScanner::takeCompressed(ScanInput& input) {
  for (;;) {
    const StreamDecoder::Step step = decode(input, pages.next(), pages.lacking());
    if (step.damaged) return bad(packet() + " is damaged: no " + method_->name + " stream");
    if (pages.added(step.made)) return kGoOn;
    if (step.taken > 0 || step.made > 0) continue;
    if (dataLeft_ > 0) return kGoOn;
    return bad(packet() + " has too few bytes for " + std::to_string(normal_) + " pages");
  }
}

// What follows the last page flushes the compressor, and gives nothing more.
ScanStop ChannelScanner::takeRest(ScanInput& input) {
  if (normal_ == 0) return kGoOn;
  for (;;) {
    std::byte none{};
    const StreamDecoder::Step step = decode(input, &none, 1);
    if (step.damaged) return bad(packet() + " is damaged: no " + method_->name + " stream");
    if (step.made > 0) return bad(packet() + " has more bytes than " + std::to_string(normal_) + " pages");
    if (step.taken == 0) return kGoOn;
  }
}

// The next bytes of the packet's data. Nothing taken and nothing made: there is no more input.
StreamDecoder::Step ChannelScanner::decode(ScanInput& input, std::byte* into, size_t room) {
  const size_t given = std::min(input.left(), dataLeft_);
  if (given == 0 && drained_) return {0, 0, false};
  StreamDecoder::Step step = decoder_->step(input.at, given, into, room);
  drained_ = step.taken == 0 && step.made == 0;
  if (given > 0 && drained_) step.damaged = true;
  input.at += step.taken;
  dataLeft_ -= step.taken;
  return step;
}

std::string ChannelScanner::packet() const { return "packet " + std::to_string(bigEndian64(head_.get() + kAtNumber)); }

std::string ChannelScanner::pageAt(uint64_t offset) const {
  return packet() + " has a page of block " + quoted(block_->name) + " at offset " + std::to_string(offset);
}

uint32_t ChannelScanner::numberAt(size_t place) const { return bigEndian32(head_.get() + place); }

uint64_t ChannelScanner::offsetAt(size_t index) const { return bigEndian64(head_.get() + kAtOffsets + 8 * index); }

}  // namespace blockferry
