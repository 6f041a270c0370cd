// SPDX-License-Identifier: Apache-2.0
// See slot-pool.h.
#include "slot-pool.h"

#include <sys/mman.h>

#include <algorithm>

namespace blockferry {

namespace {
constexpr size_t kHugePage = 2 << 20;
}

// Mapped on a huge page boundary: one page-table entry and, for the ring, one pinned piece per 2 MiB.
std::shared_ptr<SlotGroup> SlotGroup::map(uint32_t index, size_t bytes) {
  const size_t room = bytes + kHugePage;
  void* mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* base = static_cast<std::byte*>(mapped);
  const auto address = reinterpret_cast<uintptr_t>(base);
  const size_t lead = (kHugePage - address % kHugePage) % kHugePage;
  if (lead > 0) munmap(base, lead);
  munmap(base + lead + bytes, room - lead - bytes);
  if (bytes >= kHugePage) madvise(base + lead, bytes, MADV_HUGEPAGE);
  return std::shared_ptr<SlotGroup>(new SlotGroup(index, base + lead, bytes));
}

SlotGroup::~SlotGroup() { munmap(data_, size_); }

SlotPool::SlotPool(size_t slotSize, uint32_t maxSlots)
    : slotSize_(slotSize), taken_(maxSlots), runs_(maxSlots), groups_((maxSlots + kSlotsPerGroup - 1) / kSlotsPerGroup) {}

uint32_t SlotPool::slotsIn(uint32_t group) const {
  return std::min<uint32_t>(kSlotsPerGroup, static_cast<uint32_t>(taken_.size()) - group * kSlotsPerGroup);
}

bool SlotPool::mapGroup(uint32_t index) {
  Group& group = groups_[index];
  if (group.mapping) return true;
  group.mapping = SlotGroup::map(index, slotsIn(index) * slotSize_);
  if (!group.mapping) return false;
  mapped_ += slotsIn(index);
  return true;
}

void SlotPool::markTaken(uint32_t first, uint32_t count) {
  Group& group = groups_[first / kSlotsPerGroup];
  group.usedSinceTrim = true;
  group.inUse += count;
  inUse_ += count;
  runs_[first] = static_cast<uint8_t>(count);
  for (uint32_t slot = first; slot < first + count; ++slot) taken_[slot] = true;
}

void SlotPool::take(uint32_t count, uint32_t among, std::vector<uint32_t>& taken) {
  // Groups in ascending order: the later ones become idle and are given back.
  for (uint32_t index = 0; index < groups_.size() && taken.size() < count; ++index) {
    const uint32_t begin = index * kSlotsPerGroup;
    const uint32_t end = std::min(begin + slotsIn(index), among);
    for (uint32_t slot = begin; slot < end && taken.size() < count; ++slot) {
      if (taken_[slot]) continue;
      if (!mapGroup(index)) return;
      markTaken(slot, 1);
      taken.push_back(slot);
    }
  }
}

bool SlotPool::takeRun(uint32_t count, uint32_t among, uint32_t& first) {
  for (uint32_t index = 0; index < groups_.size(); ++index) {
    const uint32_t begin = index * kSlotsPerGroup;
    const uint32_t end = std::min(begin + slotsIn(index), among);
    uint32_t free = 0;
    for (uint32_t slot = begin; slot < end; ++slot) {
      free = taken_[slot] ? 0 : free + 1;
      if (free < count) continue;
      if (!mapGroup(index)) return false;
      first = slot + 1 - count;
      markTaken(first, count);
      return true;
    }
  }
  return false;
}

bool SlotPool::give(uint32_t slot) {
  if (lengthOf(slot) == 0) return false;
  const uint32_t count = runs_[slot];
  for (uint32_t each = slot; each < slot + count; ++each) taken_[each] = false;
  runs_[slot] = 0;
  groups_[slot / kSlotsPerGroup].inUse -= count;
  inUse_ -= count;
  return true;
}

std::vector<std::shared_ptr<SlotGroup>> SlotPool::trim() {
  std::vector<std::shared_ptr<SlotGroup>> idle;
  for (uint32_t index = 0; index < groups_.size(); ++index) {
    Group& group = groups_[index];
    if (group.mapping && group.inUse == 0 && !group.usedSinceTrim) {
      idle.push_back(std::move(group.mapping));
      group.mapping = nullptr;
      mapped_ -= slotsIn(index);
    }
    group.usedSinceTrim = group.inUse > 0;
  }
  return idle;
}

}  // namespace blockferry
