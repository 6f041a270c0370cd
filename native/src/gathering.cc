// SPDX-License-Identifier: Apache-2.0
// See gathering.h.
#include "gathering.h"

#include <algorithm>
#include <cstring>

#include "crc32c.h"
#include "verbs.h"

namespace blockferry {

Gathering::Gathering(Setup setup)
    : pageSize_(setup.pageSize),
      pageShift_(static_cast<uint32_t>(__builtin_ctz(setup.pageSize))),
      blocks_(std::move(setup.blocks)),
      seen_(blocks_.size()),
      slotSize_(setup.slotSize),
      pieces_(setup.pieces),
      spare_(std::make_unique<std::byte[]>(setup.pageSize)) {
  zeroDigest_ = crc32c(spare_.get(), pageSize_);
  if (!gathers()) slot_ = spare_.get();
}

const ScannedBlock* Gathering::find(const char* name, size_t length) {
  for (const ScannedBlock& block : blocks_) {
    if (block.name.size() != length || std::memcmp(block.name.data(), name, length) != 0) continue;
    seen_[indexOf(block)] = true;
    return &block;
  }
  return nullptr;
}

Gathering::Begin Gathering::begin(const ScannedBlock& block, uint64_t offset, uint64_t lowest, uint64_t highest) {
  const bool behind = lastBlock_ == nullptr || &block > lastBlock_ || (&block == lastBlock_ && lowest > lastOffset_);
  if (!behind && gathers() && !told_) {
    told_ = true;
    return Begin::order;
  }
  if (!beginNext(block, offset)) return Begin::full;
  if (!behind) ++counts.walks;
  told_ = false;
  lastBlock_ = &block;
  lastOffset_ = highest;
  return Begin::taken;
}

bool Gathering::beginNext(const ScannedBlock& block, uint64_t offset) {
  if (gathers() && (slot_ == nullptr || gathered_ + pageSize_ > slotSize_)) return false;
  ++counts.normal;
  block_ = &block;
  offset_ = offset;
  arrived_ = 0;
  return true;
}

bool Gathering::added(size_t bytes) {
  arrived_ += bytes;
  if (arrived_ < pageSize_) return false;
  const std::byte* page = slot_ + gathered_;
  if (gathers() && isZero(page, pageSize_)) {
    ++counts.foundZero;
    clear(*block_, offset_);
  } else {
    finish(page);
    if (gathers()) gathered_ += pageSize_;
  }
  block_ = nullptr;
  return true;
}

size_t Gathering::add(const std::byte* data, size_t length) {
  const size_t taken = std::min(length, lacking());
  put(next(), data, taken);
  added(taken);
  return taken;
}

void Gathering::addWhole(const std::byte* page) {
  if (!gathers()) {
    finish(page);
  } else if (isZero(page, pageSize_)) {
    ++counts.foundZero;
    clear(*block_, offset_);
  } else {
    put(slot_ + gathered_, page, pageSize_);
    finish(page);
    gathered_ += pageSize_;
  }
  block_ = nullptr;
}

// In place most lies where it belongs, and what does not moves down over zero pages.
void Gathering::put(std::byte* into, const std::byte* data, size_t length) {
  if (into != data) std::memmove(into, data, length);
}

// The page that has begun is whole and counts as data.
void Gathering::finish(const std::byte* page) {
  const uint64_t number = offset_ >> pageShift_;
  block_->bitmap[number >> 3] |= static_cast<uint8_t>(1U << (number & 7));
  if (block_->digests != nullptr) block_->digests[number] = crc32c(page, pageSize_);
  if (gathers()) addPiece(block_->place + offset_);
}

void Gathering::addPiece(uint64_t place) {
  double* const last = pieces_ + 2 * pieceCount_;
  const auto at = static_cast<double>(place);
  const auto length = static_cast<double>(pageSize_);
  if (pieceCount_ > 0 && last[-2] + last[-1] == at) {
    last[-1] += length;
    return;
  }
  last[0] = at;
  last[1] = length;
  ++pieceCount_;
}

void Gathering::zero(const ScannedBlock& block, uint64_t offset) {
  ++counts.zero;
  clear(block, offset);
}

void Gathering::clear(const ScannedBlock& block, uint64_t offset) {
  const uint64_t number = offset >> pageShift_;
  block.bitmap[number >> 3] &= static_cast<uint8_t>(~(1U << (number & 7)));
  if (block.digests != nullptr) block.digests[number] = zeroDigest_;
}

bool Gathering::gatherInto(std::shared_ptr<SlotGroup> memory, std::byte* slot) {
  if (!gathers() || slot_ != nullptr) return false;
  memory_ = std::move(memory);
  slot_ = slot;
  if (block_ != nullptr) std::memcpy(slot_, spare_.get(), arrived_);
  return true;
}

Gathering::Taken Gathering::take() {
  const Taken taken{pieceCount_, gathered_};
  if (!gathers() || slot_ == nullptr) return taken;
  if (block_ != nullptr) std::memcpy(spare_.get(), slot_ + gathered_, arrived_);
  memory_.reset();
  slot_ = nullptr;
  gathered_ = 0;
  pieceCount_ = 0;
  return taken;
}

}  // namespace blockferry
