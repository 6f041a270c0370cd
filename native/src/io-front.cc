// SPDX-License-Identifier: Apache-2.0
// See io-front.h.
#include "io-front.h"

#include <fcntl.h>

#include <cerrno>
#include <limits>

#include "batch.h"
#include "lane.h"

namespace blockferry {

namespace {
// More would let the storage wait for JavaScript.
constexpr size_t kGatherAtMost = 8;
// Descriptors in the socket at once: far below what it holds.
constexpr size_t kUnderwayAtMost = 32;
}  // namespace

int IoFront::start(int signalFd) {
  return engine_->start(signalFd, [self = shared_from_this()] { self->dropAll(); });
}

int IoFront::submit(std::unique_ptr<Request> request) {
  if (stopped_) return -ECANCELED;
  if (request->op == Op::adopt) return adopt(std::move(request));
  if (!resolveFiles(*request)) return -EBADF;
  if (request->op == Op::close) {
    files_.erase(request->fileId);
    if (request->file->requests > 0) {
      File* file = request->file.get();
      closing_.emplace(file, std::move(request));
      return 0;
    }
  } else {
    if (request->file) ++request->file->requests;
    if (request->to) ++request->to->requests;
  }
  if (request->waitsForPeer()) begin(std::move(request));
  else queue(std::move(request));
  return 0;
}

// Past the limits. They are there for storage, which would wait for peers if those counted; what streams take of memory and
// tasks is bounded by the slots and by their own number.
void IoFront::begin(std::unique_ptr<Request> request) {
  Request* const begun = request.get();
  inFlight_.emplace(begun, std::move(request));
  ++atPeers_;
  engine_->submit({begun});
}

bool IoFront::resolveFiles(Request& request) {
  if (request.makesFile() || request.namesFiles() || request.isComputation()) return true;
  const auto found = files_.find(request.fileId);
  if (found == files_.end()) return false;
  request.file = found->second;
  if (!request.usesTwoFiles()) return true;
  const auto to = files_.find(request.toFileId);
  if (to == files_.end()) return false;
  request.to = to->second;
  return true;
}

// The descriptor is sent or copied before this returns: the caller may close it then.
int IoFront::adopt(std::unique_ptr<Request> request) {
  if (request->offset > std::numeric_limits<int>::max()) return -EBADF;
  const int fd = static_cast<int>(request->offset);
  request->tag = nextTag_++;
  if (underway_ >= kUnderwayAtMost) {
    request->unsent = UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!request->unsent.valid()) return -errno;
    unsent_.push_back(std::move(request));
    return 0;
  }
  const int refused = engine_->pass(fd, request->tag);
  if (refused < 0) return refused;
  ++underway_;
  queue(std::move(request));
  return 0;
}

void IoFront::sendWaiting() {
  while (!unsent_.empty() && underway_ < kUnderwayAtMost) {
    std::unique_ptr<Request> request = std::move(unsent_.front());
    unsent_.pop_front();
    request->result = engine_->pass(request->unsent.get(), request->tag);
    request->unsent.reset();
    ++underway_;
    waiting_.push_back(std::move(request));
  }
}

void IoFront::queue(std::unique_ptr<Request> request) {
  waiting_.push_back(std::move(request));
  if (!held_ || waiting_.size() >= kGatherAtMost) admitWaiting();
}

bool IoFront::admissible(const Request& request) const {
  if (inFlight_.size() - atPeers_ >= limits_.maxRequests) return false;
  return !request.isTransfer() || bytes_ == 0 || bytes_ + request.length <= limits_.maxBytes;
}

void IoFront::release() {
  held_ = false;
  if (!stopped_) admitWaiting();
}

void IoFront::admitWaiting() {
  std::vector<Request*> begun;
  while (!waiting_.empty() && admissible(*waiting_.front())) {
    Request* request = waiting_.front().get();
    inFlight_.emplace(request, std::move(waiting_.front()));
    waiting_.pop_front();
    if (request->isTransfer()) bytes_ += request->length;
    if (request->pieces) request->pieces->start(begun);
    else begun.push_back(request);
  }
  if (!begun.empty()) engine_->submit(begun);
}

std::vector<std::unique_ptr<Request>> IoFront::reap() {
  std::vector<std::unique_ptr<Request>> done;
  if (stopped_) return done;
  std::vector<Request*> finished;
  engine_->reap(finished);
  done.reserve(finished.size());
  for (Request* request : finished) {
    const auto found = inFlight_.find(request);
    done.push_back(std::move(found->second));
    inFlight_.erase(found);
    settle(*request);
  }
  sendWaiting();
  admitWaiting();
  return done;
}

// Gives back what a finished request held.
void IoFront::settle(Request& request) {
  if (request.isTransfer()) bytes_ -= request.length;
  if (request.pieces) request.pieces->letGo();
  if (request.op == Op::adopt) --underway_;
  if (request.waitsForPeer()) --atPeers_;
  if (request.opened) {
    request.result = static_cast<int64_t>(nextFileId_);
    files_.emplace(nextFileId_++, std::move(request.opened));
  }
  for (std::shared_ptr<File>* held : {&request.file, &request.to}) {
    // From here on only the table or a waiting close holds the file: its descriptor is never closed on this thread.
    const std::shared_ptr<File> file = std::move(*held);
    if (!file || request.op == Op::close || --file->requests > 0) continue;
    const auto closing = closing_.find(file.get());
    if (closing == closing_.end()) continue;
    waiting_.push_back(std::move(closing->second));
    closing_.erase(closing);
  }
}

std::optional<Oldest> IoFront::oldest() const {
  if (stopped_) return std::nullopt;
  const Request* oldest = nullptr;
  int64_t since = 0;
  for (const auto& [request, owned] : inFlight_) {
    const int64_t started = request->startedMs.load(std::memory_order_relaxed);
    if (started == 0 || (oldest != nullptr && started >= since)) continue;
    oldest = request;
    since = started;
  }
  if (oldest == nullptr) return std::nullopt;
  return Oldest{oldest->lane ? oldest->lane->doing() : oldest->op, oldest->fileId, nowMs() - since};
}

void IoFront::shutStream(double fileId, uint32_t directions) {
  if (stopped_) return;
  std::shared_ptr<File> file;
  const auto found = files_.find(fileId);
  if (found != files_.end()) file = found->second;
  for (const auto& [closed, request] : closing_) {
    if (request->fileId == fileId) file = request->file;
  }
  if (!file) return;
  file->stream.shut(directions);
  engine_->shut(file);
}

void IoFront::callBack(const std::shared_ptr<Lane>& lane, bool redo) {
  if (stopped_) return;
  lane->callBack(redo);
  engine_->rouse(lane);
}

void IoFront::stop() {
  if (stopped_) return;
  stopped_ = true;
  unsent_.clear();  // here, where their descriptors live
  engine_->stop();
}

// Leader, after all tasks have ended: descriptors are closed in the table they live in.
void IoFront::dropAll() {
  inFlight_.clear();
  waiting_.clear();
  closing_.clear();
  files_.clear();
  dropped_.store(true, std::memory_order_release);
}

}  // namespace blockferry
