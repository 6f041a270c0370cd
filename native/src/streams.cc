// SPDX-License-Identifier: Apache-2.0
// See streams.h.
#include "streams.h"

#include <cerrno>

#include "lane.h"
#include "stream-verbs.h"
#include "verbs.h"

namespace blockferry {

int Streams::open(std::vector<int>& keep) {
  int error = passage_.open();
  if (error == 0) error = noMoreComing_.open(keep);
  if (error == 0) error = noMoreWaiting_.open(keep);
  if (error == 0) keep.push_back(passage_.groupEnd());
  return error;
}

void Streams::started(GroupKind kind) {
  if (kind != GroupKind::own) return;
  passage_.disown();
  noMoreComing_.disown();
  noMoreWaiting_.disown();
}

void Streams::stop() {
  passage_.stop();
  noMoreComing_.announce();
  noMoreWaiting_.announce();
}

void Streams::wakeAll() {
  noMoreComing_.wakeAll();
  noMoreWaiting_.wakeAll();
}

void Streams::close() {
  passage_.close();
  noMoreComing_.close();
  noMoreWaiting_.close();
}

// Who waits for a peer is not stuck, and is not counted as being in the kernel. A lane, and who sends of a file, says itself when it is.
void Streams::perform(Request& request) {
  if (request.op != Op::lane && (!request.waitsForPeer() || (request.stream() && request.stream()->isStorage())))
    request.markStarted();
  switch (request.op) {
    case Op::adopt: request.result = adopt(request); break;
    case Op::accept: request.result = acceptFrom(request, noMoreComing_); break;
    case Op::connect: request.result = connectTo(request, noMoreComing_); break;
    case Op::receive:
      request.result = request.flags == 0 ? receiveFrom(request, noMoreComing_) : receivePacketsFrom(request, noMoreComing_);
      break;
    case Op::send: request.result = sendTo(request, noMoreWaiting_); break;
    case Op::sendFile: request.result = sendFileTo(request, noMoreWaiting_); break;
    case Op::sendFilePages: request.result = sendFilePagesTo(request, noMoreWaiting_); break;
    case Op::drain: request.result = drainTo(request, noMoreWaiting_); break;
    case Op::lane: request.result = request.lane->serve(request, noMoreComing_); break;
    default: request.result = -ENOSYS;
  }
}

int64_t Streams::adopt(Request& request) {
  if (request.result < 0) return request.result;  // it could not be sent
  UniqueFd fd;
  const int64_t failed = passage_.receive(request.tag, fd);
  return failed < 0 ? failed : adoptFile(request, std::move(fd));
}

}  // namespace blockferry
