// SPDX-License-Identifier: Apache-2.0
// See streams.h.
#include "streams.h"

#include <cerrno>

#include "verbs.h"

namespace blockferry {

int Streams::open(std::vector<int>& keep) {
  const int error = passage_.open();
  if (error == 0) keep.push_back(passage_.groupEnd());
  return error;
}

void Streams::started(GroupKind kind) {
  if (kind == GroupKind::own) passage_.disown();
}

void Streams::perform(Request& request) {
  request.markStarted();
  request.result = adopt(request);
}

int64_t Streams::adopt(Request& request) {
  if (request.result < 0) return request.result;  // it could not be sent
  UniqueFd fd;
  const int64_t failed = passage_.receive(request.tag, fd);
  return failed < 0 ? failed : adoptFile(request, std::move(fd));
}

}  // namespace blockferry
