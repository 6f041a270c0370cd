// SPDX-License-Identifier: Apache-2.0
// See passage.h.
#include "passage.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "verbs.h"

namespace blockferry {

namespace {

// One descriptor and the tag it is for.
struct Parcel {
  uint64_t tag = 0;
  iovec text{&tag, sizeof tag};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};

  msghdr message() {
    msghdr header{};
    header.msg_iov = &text;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    return header;
  }
};

}  // namespace

int Passage::open() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return -errno;
  ours_ = UniqueFd(pair[0]);
  theirs_ = UniqueFd(pair[1]);
  return 0;
}

int Passage::send(int fd, uint64_t tag) {
  Parcel parcel;
  parcel.tag = tag;
  msghdr header = parcel.message();
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(part), &fd, sizeof fd);
  const int64_t sent = retry([&] { return ::sendmsg(ours_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL); });
  return sent < 0 ? static_cast<int>(sent) : 0;
}

int64_t Passage::receive(uint64_t tag, UniqueFd& fd) {
  std::lock_guard guard(lock_);
  for (;;) {
    const auto found = arrived_.find(tag);
    if (found != arrived_.end()) {
      fd = std::move(found->second);
      arrived_.erase(found);
      return fd.valid() ? 0 : -EMFILE;
    }
    uint64_t whose = 0;
    UniqueFd next;
    const int64_t failed = takeNext(whose, next);
    if (failed < 0) return failed;
    arrived_.emplace(whose, std::move(next));
  }
}

// Holds lock_. 0 or -errno: there is always a next one, since a descriptor is sent before somebody asks for it.
int64_t Passage::takeNext(uint64_t& tag, UniqueFd& fd) {
  Parcel parcel;
  msghdr header = parcel.message();
  const int64_t got = retry([&] { return ::recvmsg(theirs_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (got != sizeof parcel.tag) return got < 0 ? got : -EIO;
  tag = parcel.tag;
  const cmsghdr* part = CMSG_FIRSTHDR(&header);
  if (part == nullptr || part->cmsg_type != SCM_RIGHTS) return 0;  // the group's table was full
  int received = -1;
  std::memcpy(&received, CMSG_DATA(part), sizeof received);
  fd = UniqueFd(received);
  return 0;
}

void Passage::close() {
  arrived_.clear();
  theirs_.reset();
}

}  // namespace blockferry
