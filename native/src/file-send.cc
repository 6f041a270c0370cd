// SPDX-License-Identifier: Apache-2.0
// The sendFile and drain verbs: ranges of a file to a Unix socket of ours, each behind some bytes of a slot.
//
// sendfile() puts the pages of the page cache into the socket as they are, so that the peer's read is the only copy. What is in the
// socket is the file, then: who changes the file before the peer has read changes what the peer reads. drain tells when it has.
//
// As in stream-transfer.cc nothing waits for the peer inside the kernel. sendfile() has no flag for that: the socket has, which
// is why it must be ours. What it may wait for is the file's storage, where a page is not in the cache.
//
// Some file systems have no sendfile() (FUSE ones, /proc). It is known at the first range only, behind a head that was sent
// already, so such files are read and sent here.
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "stream-verbs.h"
#include "verbs.h"

namespace blockferry {

namespace {

// Of one call, bytes: in between it is seen that the stream or the engine ends.
constexpr int64_t kStep = 512 << 10;
// Of a file that is read here, bytes.
constexpr int64_t kCopyStep = 128 << 10;

int64_t sendHead(File& peer, const std::byte* from, int64_t length) {
  return retry([&] {
    return ::send(peer.fd.get(), from, static_cast<size_t>(length), MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
  });
}

// A signal for a peer that has gone stays pending in the task, as in stream-transfer.cc.
int64_t sendRange(Request& request, int64_t offset, int64_t length) {
  const AtStorage waiting(request);
  loff_t at = offset;
  return retry([&] {
    return ::sendfile(request.to->fd.get(), request.file->fd.get(), &at, static_cast<size_t>(std::min(length, kStep)));
  });
}

// What a file system says that has no sendfile().
bool isLacking(int64_t result) { return result == -EINVAL || result == -ENOSYS || result == -EOPNOTSUPP; }

// sendfile() does not say which of the two has failed. -errno of the file, 0 when it can be read there.
int64_t fileError(File& file, int64_t offset) {
  std::byte one{};
  const int64_t got = readFile(file, offset, 1, &one);
  return got < 0 ? got : got == 0 ? -EIO : 0;
}

// What of a request is not sent yet.
class Rest {
 public:
  explicit Rest(Request& request) : request_(request), head_(request.data) {}

  bool empty() const { return part_ == request_.fileParts.size(); }
  // Some of it, or -EAGAIN, 0 where the file ends, or another -errno.
  int64_t send() {
    const FilePart& part = request_.fileParts[part_];
    const int64_t left = part.head + part.length - done_;
    const int64_t sent = inHead()           ? sendHead(*request_.to, head_, part.head - done_)
                         : copied_.empty() ? sendRange(request_, offset(), left)
                                           : sendCopied(left);
    if (sent > 0) skip(sent);
    return sent;
  }
  // After send() has failed: -errno of the file, which is noted, or 0.
  int64_t fileFailed() {
    if (inHead()) return 0;
    const int64_t error = fileError(*request_.file, offset());
    if (error < 0) request_.failedPart = static_cast<int64_t>(part_);
    return error;
  }
  // After send() has failed, and not for the file: whether it can go on in another way.
  bool copiesInstead(int64_t failure) {
    if (inHead() || !copied_.empty() || !isLacking(failure)) return false;
    copied_.resize(kCopyStep);
    return true;
  }
  int64_t sent() const { return sent_; }

 private:
  bool inHead() const { return done_ < request_.fileParts[part_].head; }
  int64_t offset() const {
    const FilePart& part = request_.fileParts[part_];
    return part.offset + done_ - part.head;
  }
  // As sendRange().
  int64_t sendCopied(int64_t length) {
    if (copiedAt_ == copiedEnd_) {
      const AtStorage waiting(request_);
      const int64_t got = readFile(*request_.file, offset(), std::min(length, kCopyStep), copied_.data());
      if (got <= 0) return got;
      copiedAt_ = 0;
      copiedEnd_ = got;
    }
    const int64_t sent = retry([&] {
      return ::send(request_.to->fd.get(), copied_.data() + copiedAt_, static_cast<size_t>(copiedEnd_ - copiedAt_),
                    MSG_DONTWAIT | MSG_NOSIGNAL);
    });
    if (sent > 0) copiedAt_ += sent;
    return sent;
  }
  void skip(int64_t bytes) {
    const FilePart& part = request_.fileParts[part_];
    if (inHead()) head_ += bytes;
    sent_ += bytes;
    done_ += bytes;
    if (done_ < part.head + part.length) return;
    done_ = 0;
    ++part_;
  }

  Request& request_;
  const std::byte* head_;  // of the next head
  size_t part_ = 0;
  int64_t done_ = 0;  // of the part: its head, then its range
  int64_t sent_ = 0;
  std::vector<std::byte> copied_;  // of the file, where it is read here; empty: it is not
  int64_t copiedAt_ = 0;           // what of that is not sent yet
  int64_t copiedEnd_ = 0;
};

}  // namespace

int64_t sendFileTo(Request& request, const Ending& ending) {
  File& peer = *request.to;
  Stream& stream = peer.stream;
  if (!peer.ours) return -EOPNOTSUPP;
  Rest rest(request);
  while (!rest.empty() && !ending.begun() && stream.ended(Direction::write) == Stream::kGoesOn) {
    const int64_t sent = rest.send();
    if (sent > 0) continue;
    if (sent == -EAGAIN) {
      const int64_t ready = stream.wait(peer.fd.get(), Direction::write, -1, ending);
      if (ready < 0) return ready;
      continue;
    }
    const int64_t file = rest.fileFailed();
    if (file == 0 && rest.copiesInstead(sent)) continue;
    // Nothing may follow in the place of what is missing.
    stream.end(Direction::write, file < 0 ? file : sent == 0 ? -EIO : sent);
  }
  if (rest.empty()) return rest.sent();
  const int64_t ended = stream.ended(Direction::write);
  return ended == Stream::kGoesOn ? -ECANCELED : ended;
}

// A Unix socket can be written to when a quarter of its room is taken; with the least room there is, that is less than one
// page of a file takes. The kernel raises what is asked for to that.
int64_t drainTo(Request& request, const Ending& ending) {
  File& peer = *request.file;
  const int least = 0;
  if (!peer.ours) return -EOPNOTSUPP;
  if (setsockopt(peer.fd.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof least) < 0) return -errno;
  const int64_t ready = peer.stream.wait(peer.fd.get(), Direction::write, -1, ending);
  return std::min<int64_t>(ready, 0);
}

}  // namespace blockferry
