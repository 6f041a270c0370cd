// SPDX-License-Identifier: Apache-2.0
// What becomes of the pages a scanner finds: bits, digests, and the slot they are gathered in for one write. Part of Scanner.
//
//     input   |head|page 7......|head|page 8......|head|page 20.....|
//     slot    |page 7......|page 8......|page 20.....|      pieces: [place of 7, 2 pages], [place of 20, 1 page]
//
// A page that comes in parts grows behind the gathered ones, and belongs to them once it is whole. Without gathering the slot is
// one page that is used for such pages only. In place the slot is the input's: nothing is copied then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "slot-pool.h"

namespace blockferry {

struct ScannedBlock {
  std::string name;
  uint64_t length = 0;
  uint64_t place = 0;           // of its first page in the file
  uint8_t* bitmap = nullptr;    // memory of JavaScript, like digests
  uint32_t* digests = nullptr;  // nullptr: not wanted
};

struct ScanCounts {
  uint64_t zero = 0;
  uint64_t normal = 0;
  uint64_t delta = 0;
  uint64_t foundZero = 0;
  uint64_t walks = 0;
};

class Gathering {
 public:
  struct Setup {
    uint32_t pageSize;  // a power of two
    std::vector<ScannedBlock> blocks;
    size_t slotSize;  // 0: pages are not gathered
    double* pieces;   // room for a pair of numbers for each page of a slot
  };
  explicit Gathering(Setup setup);

  size_t pageSize() const { return pageSize_; }
  bool gathers() const { return slotSize_ > 0; }
  const std::vector<ScannedBlock>& blocks() const { return blocks_; }
  // The block that pages are of which come now. nullptr: there is no such block.
  const ScannedBlock* find(const char* name, size_t length);
  // Whether it was found.
  bool seen(size_t index) const { return index < seen_.size() && seen_[index]; }
  uint32_t indexOf(const ScannedBlock& block) const { return static_cast<uint32_t>(&block - blocks_.data()); }

  enum class Begin { taken, order, full };
  // A page of data comes, first of some that lie between `lowest` and `highest`. Unless it is taken nothing has changed, and it is
  // to be offered again.
  Begin begin(const ScannedBlock& block, uint64_t offset, uint64_t lowest, uint64_t highest);
  // Another of them. False: full.
  bool beginNext(const ScannedBlock& block, uint64_t offset);
  // False: the page that has begun has lost its slot and needs another.
  bool hasSlot() const { return slot_ != nullptr; }
  // Bytes the page that has begun still lacks, and where they go; added() says that they are there.
  size_t lacking() const { return pageSize_ - arrived_; }
  std::byte* next() const { return slot_ + gathered_ + arrived_; }
  // Whether the page is whole now.
  bool added(size_t bytes);
  // The same for bytes that lie elsewhere; their number is returned.
  size_t add(const std::byte* data, size_t length);
  // All of the page at once.
  void addWhole(const std::byte* page);
  bool hasBegun() const { return block_ != nullptr; }
  // A page that is all zero.
  void zero(const ScannedBlock& block, uint64_t offset);

  // False: there is a slot.
  bool gatherInto(std::shared_ptr<SlotGroup> memory, std::byte* slot);
  struct Taken {
    size_t pieces;
    size_t length;
  };
  // What was gathered goes to the caller, and the slot with it; a page that is not whole stays here.
  Taken take();

  ScanCounts counts;

 private:
  static void put(std::byte* into, const std::byte* data, size_t length);
  void finish(const std::byte* page);
  void clear(const ScannedBlock& block, uint64_t offset);
  void addPiece(uint64_t place);

  const size_t pageSize_;
  const uint32_t pageShift_;
  const std::vector<ScannedBlock> blocks_;
  std::vector<bool> seen_;
  const size_t slotSize_;
  double* const pieces_;
  const std::unique_ptr<std::byte[]> spare_;  // of one page: what take() must not give away
  uint32_t zeroDigest_ = 0;

  std::shared_ptr<SlotGroup> memory_;
  std::byte* slot_ = nullptr;
  size_t gathered_ = 0;
  size_t pieceCount_ = 0;

  // The page that has begun.
  const ScannedBlock* block_ = nullptr;
  uint64_t offset_ = 0;
  size_t arrived_ = 0;

  // The highest page of the last ones, and that the caller was told of one that does not lie behind it.
  const ScannedBlock* lastBlock_ = nullptr;
  uint64_t lastOffset_ = 0;
  bool told_ = false;
};

}  // namespace blockferry
