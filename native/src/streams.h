// SPDX-License-Identifier: Apache-2.0
// What an engine has for streams: the way descriptors come in. Part of ThreadEngine, and so of every engine.
#pragma once

#include <vector>

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
  // JS thread.
  void stop() { passage_.stop(); }

  // Any task, no N-API. Performs a request of a verb that is ours, and fills in its result.
  static bool does(Op op) { return op == Op::adopt; }
  void perform(Request& request);
  // Leader, after every task has ended.
  void close() { passage_.close(); }

 private:
  int64_t adopt(Request& request);

  Passage passage_;
};

}  // namespace blockferry
