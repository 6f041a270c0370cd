// SPDX-License-Identifier: Apache-2.0
// A lane: one task serves a client that asks for one thing at a time, straight from a file, as long as JavaScript has lent
// it both. Performed by Streams; what the client speaks is in nbd-lane.h and http-lane.h.
//
//     client ──request──▶ task ── pread, pwrite ── file          where JavaScript does it: client ▶ loop ▶ task ▶ loop ▶ client
//     client ◀───reply─── task
//
// Why: such a request takes as long as the threads on its way need to wake up. Here one does.
//
// A lane does plain reads and writes and nothing else, and only what succeeds. Whatever is unusual ends it: what it does not
// know, what is not aligned, a second request before the first was answered, an error, an end. Then JavaScript gets the bytes
// that came and were not answered, and does with them as if they had come to it.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "ending.h"
#include "request.h"
#include "unique-fd.h"

namespace blockferry {

struct LaneCounts {
  int64_t reads = 0;
  int64_t readBytes = 0;
  int64_t writes = 0;
  int64_t writeBytes = 0;
  // Everything written lies in [from, to).
  int64_t from = 0;
  int64_t to = 0;
};

class Lane {
 public:
  // A client that asks for nothing for so long, or takes so long to send one request, gets no lane.
  explicit Lane(int idleMs) : idleMs_(idleMs) {}
  virtual ~Lane() = default;

  /**
   * JS thread. No request is begun any more; wake() must follow. One that is under way is answered, but for a write with
   * `redo`: that is answered by JavaScript, which does it once more, so that whoever wants to hear of changes from now on
   * hears of it before the client does.
   */
  void callBack(bool redo) {
    if (redo) redo_.store(true);
    called_.store(true);
  }
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
  // Where each request that was answered began, if the lane keeps that.
  const std::vector<double>& places() const { return places_; }

 protected:
  struct Asked {
    bool writes;
    int64_t offset;
    int64_t length;
  };

  // False: the lane ends here.
  virtual bool serveOne(Request& request, const Ending& ending) = 0;
  // What was received and not answered.
  virtual std::vector<std::byte> rest(const Request& request) const = 0;
  // Bytes, 0 at the end, or -errno.
  virtual int64_t receive(const Request& request) = 0;

  // Some bytes more. 0: it is called back, or the client is at an end, idle or slow. @param first  nothing of the request is here
  int64_t receiveMore(const Request& request, bool first, const Ending& ending);
  // False: it failed, came short, or somebody wants to hear of it: to be done anew.
  bool perform(Request& request, const Asked& asked);
  // Sends two parts; what the socket does not take is kept. False: the lane ends here.
  bool send(const Request& request, const iovec (&parts)[2]);
  bool isCalledBack() const { return called_.load(); }

  std::vector<double> places_;

 private:
  int64_t receiveSoon(const Request& request);
  // What the client has for the rest of its request.
  int leftMs() const;
  void count(const Asked& asked);

  const int idleMs_;
  std::atomic<bool> called_{false};
  std::atomic<bool> redo_{false};
  std::atomic<Op> doing_{Op::read};

  std::mutex lock_;  // guards the descriptor
  UniqueFd wake_;    // while it serves, in the group

  // Monotonic nanoseconds: when the request that comes began, when the last was answered, and whether the client asked again at once.
  int64_t begunNs_ = 0;
  int64_t answeredNs_ = 0;
  bool asksAtOnce_ = false;
  std::vector<std::byte> received_;
  std::vector<std::byte> unsent_;

  // Written by the task that serves only.
  std::atomic<int64_t> reads_{0};
  std::atomic<int64_t> readBytes_{0};
  std::atomic<int64_t> writes_{0};
  std::atomic<int64_t> writeBytes_{0};
  std::atomic<int64_t> from_{0};
  std::atomic<int64_t> to_{0};
};

}  // namespace blockferry
