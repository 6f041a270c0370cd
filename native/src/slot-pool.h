// SPDX-License-Identifier: Apache-2.0
// The aligned buffers of one engine: fixed-size slots, mapped in groups of kSlotsPerGroup when first needed.
// JS thread only; tasks see a group through the shared_ptr in their request, which keeps it mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace blockferry {

constexpr uint32_t kSlotsPerGroup = 8;

// One anonymous mapping; unmapped when the last holder (pool, request, ArrayBuffer) lets go.
class SlotGroup {
 public:
  // nullptr when there is no memory.
  static std::shared_ptr<SlotGroup> map(uint32_t index, size_t bytes);
  ~SlotGroup();
  SlotGroup(const SlotGroup&) = delete;
  SlotGroup& operator=(const SlotGroup&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  // Place in the pool; the ring registers the group in the same place of its table.
  uint32_t index() const { return index_; }

 private:
  SlotGroup(uint32_t index, std::byte* data, size_t size) : index_(index), data_(data), size_(size) {}
  uint32_t index_;
  std::byte* data_;
  size_t size_;
};

class SlotPool {
 public:
  SlotPool(size_t slotSize, uint32_t maxSlots);

  // Up to `count` free ones of the first `among` slots are added to `taken`, fewer when all are in use or there is no memory.
  void take(uint32_t count, uint32_t among, std::vector<uint32_t>& taken);
  // `count` neighbours of those as one buffer, known by the first of them; false: there are none, or no memory.
  bool takeRun(uint32_t count, uint32_t among, uint32_t& first);
  // A run as a whole. False: the slot was not taken, or not as the first of a run.
  bool give(uint32_t slot);
  // Bytes of the buffer that begins with this slot; 0: none does.
  size_t lengthOf(uint32_t slot) const { return slot < runs_.size() ? runs_[slot] * slotSize_ : 0; }

  // The group of a taken slot and the slot's first byte in it.
  const std::shared_ptr<SlotGroup>& groupOf(uint32_t slot) const { return groups_[slot / kSlotsPerGroup].mapping; }
  size_t offsetOf(uint32_t slot) const { return slot % kSlotsPerGroup * slotSize_; }
  const std::shared_ptr<SlotGroup>& group(uint32_t index) const { return groups_[index].mapping; }

  // Lets go of the groups that nobody used since the last call, and returns them.
  std::vector<std::shared_ptr<SlotGroup>> trim();

  size_t slotSize() const { return slotSize_; }
  uint32_t groupCount() const { return static_cast<uint32_t>(groups_.size()); }
  uint32_t inUse() const { return inUse_; }
  uint32_t mapped() const { return mapped_; }

 private:
  struct Group {
    std::shared_ptr<SlotGroup> mapping;
    uint32_t inUse = 0;
    bool usedSinceTrim = false;
  };
  uint32_t slotsIn(uint32_t group) const;
  // False: there is no memory.
  bool mapGroup(uint32_t index);
  void markTaken(uint32_t first, uint32_t count);

  size_t slotSize_;
  std::vector<bool> taken_;
  // Of slots that were taken by themselves 1, of the first of a run how many there are, else 0.
  std::vector<uint8_t> runs_;
  std::vector<Group> groups_;
  uint32_t inUse_ = 0;
  uint32_t mapped_ = 0;
};

}  // namespace blockferry
