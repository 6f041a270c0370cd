// SPDX-License-Identifier: Apache-2.0
// A lane for an NBD client: plain READs and WRITEs. Other commands, flags and lengths end it.
#pragma once

#include <array>

#include "lane.h"

namespace blockferry {

// Same order as `styles` in native/lanes.ts.
enum class ReplyStyle : uint32_t { simple, structured, extended };

struct LaneTerms {
  ReplyStyle replies;
  bool writable;
  // Of requests, beside what the file wants. A power of two.
  uint32_t align;
  // What may be asked for: the first so many bytes of the file.
  int64_t length;
  // A client that asks for nothing for so long gets no lane.
  int idleMs;
};

class NbdLane final : public Lane {
 public:
  explicit NbdLane(const LaneTerms& terms) : Lane(terms.idleMs), terms_(terms) {}

 private:
  static constexpr size_t kLongestHead = 32;
  static constexpr size_t kLongestReply = 44;

  bool serveOne(Request& request, const Ending& ending) override;
  std::vector<std::byte> rest(const Request& request) const override;
  int64_t receive(const Request& request) override;

  size_t headLength() const { return terms_.replies == ReplyStyle::extended ? 32 : 28; }
  bool gather(const Request& request, size_t wanted, const Ending& ending);
  bool parse(const Request& request, Asked& asked) const;
  bool answer(const Request& request, const Asked& asked);
  size_t formatReply(const Asked& asked, bool hole, std::byte* into) const;

  const LaneTerms terms_;

  // Bytes received and not answered, first in head_, what is behind in the request's memory.
  std::array<std::byte, kLongestHead> head_{};
  size_t got_ = 0;
};

}  // namespace blockferry
