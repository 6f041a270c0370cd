// SPDX-License-Identifier: Apache-2.0
// A lane: one task serves an NBD client that asks for one thing at a time, straight from a file, as long as JavaScript has
// lent it both. Performed by Streams.
//
//     client ──request──▶ task ── pread, pwrite ── file          where JavaScript does it: client ▶ loop ▶ task ▶ loop ▶ client
//     client ◀───reply─── task
//
// Why: such a request takes as long as the threads on its way need to wake up. Here one does.
//
// The lane does plain reads and writes and nothing else, and only what succeeds. Whatever is unusual ends it: other commands,
// flags and lengths, what is not aligned, a second request before the first was answered, an error, an end. Then JavaScript
// gets the bytes that came and were not answered, and does with them as if they had come to it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "ending.h"
#include "request.h"
#include "unique-fd.h"

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

struct LaneCounts {
  int64_t reads = 0;
  int64_t readBytes = 0;
  int64_t writes = 0;
  int64_t writeBytes = 0;
  // Everything written lies in [from, to).
  int64_t from = 0;
  int64_t to = 0;
};

class NbdLane {
 public:
  explicit NbdLane(const LaneTerms& terms) : terms_(terms) {}

  /**
   * JS thread. No request is begun any more; wake() must follow. A write that is under way is answered by JavaScript, which
   * does it once more: whoever wants to hear of changes from now on hears of it before the client does.
   */
  void callBack() { called_.store(true); }
  // Leader: in the group, where the descriptor lives.
  void wake();

  // Any thread.
  LaneCounts counts() const;
  Op doing() const { return doing_.load(std::memory_order_relaxed); }

  // Any task, no N-API. 0 or -errno: then nothing was done.
  int64_t serve(Request& request, const Ending& ending);

  // Any thread, once it has ended: what the client sent and has no answer to, and of the last answer what was not sent.
  const std::vector<std::byte>& received() const { return received_; }
  const std::vector<std::byte>& unsent() const { return unsent_; }

 private:
  static constexpr size_t kLongestHead = 32;
  static constexpr size_t kLongestReply = 44;

  struct Asked {
    bool writes;
    int64_t offset;
    int64_t length;
  };

  size_t headLength() const { return terms_.replies == ReplyStyle::extended ? 32 : 28; }
  bool serveOne(Request& request, const Ending& ending);
  bool gather(const Request& request, size_t wanted, const Ending& ending);
  int64_t receive(const Request& request);
  int64_t receiveSoon(const Request& request);
  bool parse(const Request& request, Asked& asked) const;
  bool perform(Request& request, const Asked& asked);
  void count(const Asked& asked);
  bool answer(const Request& request, const Asked& asked);
  size_t formatReply(const Asked& asked, bool hole, std::byte* into) const;

  const LaneTerms terms_;
  std::atomic<bool> called_{false};
  std::atomic<Op> doing_{Op::read};

  std::mutex lock_;  // guards the descriptor
  UniqueFd wake_;    // while it serves, in the group

  // The task that serves: bytes received and not answered, first in head_, what is behind in the request's memory.
  std::array<std::byte, kLongestHead> head_{};
  size_t got_ = 0;
  // When it was answered last, and whether the client asked again at once. Monotonic nanoseconds.
  int64_t answeredNs_ = 0;
  bool asksAtOnce_ = false;
  std::vector<std::byte> received_;
  std::vector<std::byte> unsent_;

  // Written by that task only.
  std::atomic<int64_t> reads_{0};
  std::atomic<int64_t> readBytes_{0};
  std::atomic<int64_t> writes_{0};
  std::atomic<int64_t> writeBytes_{0};
  std::atomic<int64_t> from_{0};
  std::atomic<int64_t> to_{0};
};

}  // namespace blockferry
