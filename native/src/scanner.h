// SPDX-License-Identifier: Apache-2.0
// What the scanners of memory streams have in common towards their caller. JS thread only; no scanner waits or allocates
// per page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "gathering.h"

namespace blockferry {

// Same order as `stops` in native/page-scanner.ts; what they mean stands in native/stream-types.ts.
enum class ScanStop : uint32_t { input, full, order, end, sync, delta, bad };

// Bytes of the input and how far they are taken.
struct ScanInput {
  const std::byte* at;
  const std::byte* end;
  size_t left() const { return static_cast<size_t>(end - at); }
};

// A record whose contents belong to the caller: a delta against what the page was.
struct Delta {
  uint32_t block = 0;
  uint64_t offset = 0;
  const std::byte* data = nullptr;
  size_t length = 0;
};

// For texts: as far as it can be printed.
std::string quoted(std::string_view name);
std::string hex(uint64_t value);

class Scanner {
 public:
  explicit Scanner(Gathering::Setup setup) : pages(std::move(setup)) {}
  virtual ~Scanner() = default;
  Scanner(const Scanner&) = delete;
  Scanner& operator=(const Scanner&) = delete;

  // Moves `at` over what was taken. Heads and data are the same input, but where a channel's come apart.
  ScanStop scan(ScanInput& heads, ScanInput& data) { return problem_.empty() ? scanOn(heads, data) : ScanStop::bad; }
  // Whether a record or packet has begun and not ended.
  virtual bool within() const = 0;
  // After the stop `delta`, until the next scan.
  virtual Delta delta() const { return {}; }
  virtual uint64_t syncs() const { return 0; }
  // Whether the pages that come next, from the start of a slot, can be gathered in that very slot.
  virtual bool inPlace() const { return false; }
  const std::string& problem() const { return problem_; }

  Gathering pages;

 protected:
  virtual ScanStop scanOn(ScanInput& heads, ScanInput& data) = 0;
  ScanStop bad(std::string problem) {
    problem_ = std::move(problem);
    return ScanStop::bad;
  }

 private:
  std::string problem_;
};

}  // namespace blockferry
