// SPDX-License-Identifier: Apache-2.0
// The receive and send verbs.
//
// No call here waits inside the kernel for a peer, since nothing could end it there: sockets are asked with MSG_DONTWAIT, pipes
// with RWF_NOWAIT, and poll() waits, which also sees the end of the stream or of the engine. The descriptor's own flags, which
// other processes may share, are left alone. Where a pipe or terminal knows no RWF_NOWAIT, poll() has said just before that there
// is something to read, or room for PIPE_BUF bytes. Files and block devices are storage: they are read on and written on from
// the descriptor's own position.
// A signal for writing to a pipe without readers stays pending in the task, where it is blocked until the task ends.
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "packet-head.h"
#include "stream-verbs.h"
#include "verbs.h"

namespace blockferry {

namespace {

// Of packets in one request: those without data would never fill it.
constexpr size_t kMostHeads = 256;

int64_t position(File& file) {
  return retry([&] { return lseek(file.fd.get(), 0, SEEK_CUR); });
}

int64_t moveTo(File& file, int64_t offset) {
  return retry([&] { return lseek(file.fd.get(), offset, SEEK_SET); });
}

// O_DIRECT's alignment is kept by readFile().
int64_t readOnDirectly(File& file, std::byte* into, int64_t length) {
  const int64_t at = position(file);
  if (at < 0) return at;
  const int64_t got = readFile(file, at, length, into);
  if (got <= 0) return got;
  const int64_t moved = moveTo(file, at + got);
  return moved < 0 ? moved : got;
}

int64_t readOn(File& file, std::byte* into, int64_t length) {
  if (file.direct) return readOnDirectly(file, into, length);
  int64_t done = 0;
  while (done < length) {
    const int64_t got =
        retry([&] { return ::read(file.fd.get(), into + done, static_cast<size_t>(length - done)); });
    if (got < 0) return done > 0 ? done : got;
    if (got == 0) break;
    done += got;
  }
  return done;
}

// What is there at once, up to `room` bytes; 0 at the end, -EAGAIN when nothing is.
int64_t takeSome(File& file, std::byte* into, size_t room) {
  const int fd = file.fd.get();
  if (file.kind == FileKind::socket) return retry([&] { return ::recv(fd, into, room, MSG_DONTWAIT); });
  if (file.can(Can::nowait)) {
    const iovec piece{into, room};
    const int64_t got = retry([&] { return preadv2(fd, &piece, 1, -1, RWF_NOWAIT); });
    if (got != -EOPNOTSUPP) return got;
    file.cannot(Can::nowait);
  }
  return retry([&] { return ::read(fd, into, room); });
}

// The memory of a request that is not sent yet.
class Outgoing {
 public:
  explicit Outgoing(Request& request)
      : whole_{request.data, static_cast<size_t>(request.length)},
        next_(request.parts.empty() ? &whole_ : request.parts.data()),
        count_(request.parts.empty() ? 1 : request.parts.size()) {
    skip(0);
  }

  bool empty() const { return count_ == 0; }
  iovec* parts() const { return next_; }
  size_t count() const { return std::min<size_t>(count_, IOV_MAX); }

  void skip(size_t bytes) {
    while (count_ > 0 && bytes >= next_->iov_len) {
      bytes -= next_->iov_len;
      ++next_;
      --count_;
    }
    if (count_ == 0) return;
    next_->iov_base = static_cast<std::byte*>(next_->iov_base) + bytes;
    next_->iov_len -= bytes;
  }

 private:
  iovec whole_;
  iovec* next_;
  size_t count_;
};

// As many bytes as there was room for at once, or -EAGAIN.
int64_t putSome(File& file, const Outgoing& rest) {
  const int fd = file.fd.get();
  if (file.kind == FileKind::socket) {
    msghdr message{};
    message.msg_iov = rest.parts();
    message.msg_iovlen = rest.count();
    return retry([&] { return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  }
  const int count = static_cast<int>(rest.count());
  if (file.can(Can::nowait)) {
    const int64_t put = retry([&] { return pwritev2(fd, rest.parts(), count, -1, RWF_NOWAIT); });
    if (put != -EOPNOTSUPP) return put;
    file.cannot(Can::nowait);
    return -EAGAIN;
  }
  const iovec& part = *rest.parts();
  return retry([&] { return ::write(fd, part.iov_base, std::min<size_t>(part.iov_len, PIPE_BUF)); });
}

int64_t writeOnDirectly(File& file, const iovec& part) {
  const int64_t at = position(file);
  if (at < 0) return at;
  const auto length = static_cast<int64_t>(part.iov_len);
  const int64_t put = writeFile(file, at, length, static_cast<const std::byte*>(part.iov_base));
  if (put < 0) return put;
  const int64_t moved = moveTo(file, at + put);
  return moved < 0 ? moved : put;
}

int64_t writeOn(File& file, const Outgoing& rest) {
  if (file.direct) return writeOnDirectly(file, *rest.parts());
  SharedPass pass(file.gate);
  return retry([&] { return ::writev(file.fd.get(), rest.parts(), static_cast<int>(rest.count())); });
}

int64_t putNext(File& file, const Outgoing& rest) {
  const int64_t put = file.isStorage() ? writeOn(file, rest) : putSome(file, rest);
  return put == 0 ? -EIO : put;
}

// Pages of a file that are not in memory any more are waited for here.
int64_t putPages(Request& request, const Outgoing& rest) {
  const AtStorage waiting(request);
  return putNext(*request.to, rest);
}

}  // namespace

int64_t receiveFrom(Request& request, const Ending& ending) {
  File& file = *request.file;
  Stream& stream = file.stream;
  int64_t done = 0;
  // Of a pipe that nobody has opened for writing yet a read says that it has ended; poll() waits for the first.
  bool asked = file.kind == FileKind::socket || file.isStorage();
  while (done < request.length && !ending.begun() && stream.ended(Direction::read) == Stream::kGoesOn) {
    if (!asked) {
      const int64_t ready = stream.wait(file.fd.get(), Direction::read, done == 0 ? -1 : request.lingerMs, ending);
      if (ready == 0) return done;
      if (ready < 0) return done > 0 ? done : ready;
    }
    std::byte* const into = request.data + done;
    const int64_t room = request.length - done;
    const int64_t got = file.isStorage() ? readOn(file, into, room) : takeSome(file, into, static_cast<size_t>(room));
    asked = false;
    if (got == -EAGAIN) continue;
    if (got <= 0) stream.end(Direction::read, got);
    else done += got;
    if (file.isStorage()) break;
  }
  if (done > 0) return done;
  const int64_t ended = stream.ended(Direction::read);
  return ended == Stream::kGoesOn ? -ECANCELED : ended;
}

int64_t receivePacketsFrom(Request& request, const Ending& ending) {
  File& file = *request.file;
  if (file.kind != FileKind::socket) return -EOPNOTSUPP;
  Stream& stream = file.stream;
  PacketCut& cut = stream.packets;
  cut.begin(request.flags);
  const size_t most = kMostHeads * packetHeadBytes(request.flags);
  int64_t done = 0;
  bool asked = true;
  const auto some = [&] { return done > 0 || !request.heads.empty(); };
  const auto full = [&] {
    if (done == request.length || request.heads.size() >= most || cut.synced()) return true;
    // What began in one request and ended in the next would be written in two pieces.
    return done > 0 && cut.exceeds(static_cast<uint64_t>(request.length - done));
  };
  while (!full() && !ending.begun() && stream.ended(Direction::read) == Stream::kGoesOn) {
    if (!asked) {
      // A part of a page is of no use to anybody, and what follows it would not lie at a page's beginning.
      const int linger = some() && cut.betweenPages() ? request.lingerMs : -1;
      const int64_t ready = stream.wait(file.fd.get(), Direction::read, linger, ending);
      if (ready == 0) return done;
      if (ready < 0) return some() ? done : ready;
    }
    iovec parts[2];
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<size_t>(cut.aim(request.data + done, static_cast<size_t>(request.length - done), parts));
    const int64_t got = retry([&] { return ::recvmsg(file.fd.get(), &message, MSG_DONTWAIT); });
    asked = false;
    if (got == -EAGAIN) continue;
    if (got <= 0) {
      stream.end(Direction::read, got);
      cut.end(request.heads);
    } else {
      done += static_cast<int64_t>(cut.came(static_cast<size_t>(got), request.heads));
    }
  }
  if (some()) return done;
  const int64_t ended = stream.ended(Direction::read);
  return ended == Stream::kGoesOn ? -ECANCELED : ended;
}

int64_t sendTo(Request& request, const Ending& ending) {
  File& file = *request.stream();
  Stream& stream = file.stream;
  Outgoing rest(request);
  // Where nothing but poll() tells whether there is room, it is asked first.
  bool asked = file.kind == FileKind::socket || file.isStorage() || file.can(Can::nowait);
  while (!rest.empty() && !ending.begun() && stream.ended(Direction::write) == Stream::kGoesOn) {
    if (!asked) {
      const int64_t ready = stream.wait(file.fd.get(), Direction::write, -1, ending);
      if (ready < 0) return ready;
    }
    const int64_t put = request.op == Op::sendFilePages ? putPages(request, rest) : putNext(file, rest);
    // It is the file that has failed, whose matter this is.
    if (put == -EFAULT && request.op == Op::sendFilePages) return put;
    asked = file.isStorage();
    if (put == -EAGAIN) continue;
    if (put < 0) stream.end(Direction::write, put);
    else rest.skip(static_cast<size_t>(put));
  }
  if (rest.empty()) return request.length;
  const int64_t ended = stream.ended(Direction::write);
  return ended == Stream::kGoesOn ? -ECANCELED : ended;
}

}  // namespace blockferry
