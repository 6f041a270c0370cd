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
    : slotSize_(slotSize), taken_(maxSlots), groups_((maxSlots + kSlotsPerGroup - 1) / kSlotsPerGroup) {}

uint32_t SlotPool::slotsIn(uint32_t group) const {
  return std::min<uint32_t>(kSlotsPerGroup, static_cast<uint32_t>(taken_.size()) - group * kSlotsPerGroup);
}

void SlotPool::take(uint32_t count, std::vector<uint32_t>& taken) {
  // Groups in ascending order: the later ones become idle and are given back.
  for (uint32_t index = 0; index < groups_.size() && taken.size() < count; ++index) {
    Group& group = groups_[index];
    const uint32_t slots = slotsIn(index);
    if (group.inUse == slots) continue;
    if (!group.mapping) {
      group.mapping = SlotGroup::map(index, slots * slotSize_);
      if (!group.mapping) return;
      mapped_ += slots;
    }
    group.usedSinceTrim = true;
    const uint32_t first = index * kSlotsPerGroup;
    for (uint32_t slot = first; slot < first + slots && taken.size() < count; ++slot) {
      if (taken_[slot]) continue;
      taken_[slot] = true;
      ++group.inUse;
      ++inUse_;
      taken.push_back(slot);
    }
  }
}

bool SlotPool::give(uint32_t slot) {
  if (!isTaken(slot)) return false;
  taken_[slot] = false;
  --groups_[slot / kSlotsPerGroup].inUse;
  --inUse_;
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
