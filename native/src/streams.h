// SPDX-License-Identifier: Apache-2.0
// What an engine has for streams: the way descriptors come in, and what ends waiting for peers. Part of ThreadEngine, and so
// of every engine.
#pragma once

#include <vector>

#include "ending.h"
#include "own-group.h"
#include "passage.h"
#include "request.h"

namespace blockferry {

class Streams {
 public:
  // JS thread, before the group starts. Adds the descriptors the group must keep. 0 or -errno.
  int open(std::vector<int>& keep);
  // JS thread, once it has started.
  void started(GroupKind kind);
  // JS thread. Sends a descriptor of this process to the group, for the adopt request with this tag. 0 or -errno.
  int pass(int fd, uint64_t tag) { return passage_.send(fd, tag); }
  // JS thread. Nobody waits for data or connections to come any more; wakeReaders() must follow in the group.
  void endReading() { noMoreComing_.announce(); }
  void wakeReaders() { noMoreComing_.wakeAll(); }
  // JS thread. Nobody waits for anything any more; wakeAll() must follow in the group.
  void stop();
  void wakeAll();

  // Any task, no N-API. Performs a request of a verb that is ours, and fills in its result.
  static bool does(const Request& request) { return request.op == Op::adopt || request.waitsForPeer(); }
  void perform(Request& request);
  // Leader, after every task has ended.
  void close();

 private:
  int64_t adopt(Request& request);

  Passage passage_;
  Ending noMoreComing_;
  Ending noMoreWaiting_;
};

}  // namespace blockferry
