// SPDX-License-Identifier: Apache-2.0
// See local-socket.h.
#include "local-socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace blockferry {

namespace {

constexpr size_t kPassedRoom = CMSG_SPACE(sizeof(int) * kMaxPassed);
// Credentials, labels and the like, which whoever made an inherited socket may have asked for.
constexpr size_t kOtherRoom = 512;
// SCM_PIDFD of Linux 6.5: the sender as a descriptor, nobody here wants it.
constexpr int kSenderFd = 4;

int64_t resultOf(ssize_t done) { return done < 0 ? -int64_t{errno} : done; }

void collect(msghdr& message, std::vector<UniqueFd>& passed) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type != SCM_RIGHTS && part->cmsg_type != kSenderFd) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t index = 0; index < count; ++index) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + index * sizeof fd, sizeof fd);
      UniqueFd came(fd);
      if (part->cmsg_type == SCM_RIGHTS) passed.push_back(std::move(came));
    }
  }
}

}  // namespace

int64_t receiveLocal(int fd, void* into, size_t room, std::vector<UniqueFd>& passed) {
  alignas(cmsghdr) char control[kPassedRoom + kOtherRoom];
  iovec piece{into, room};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  ssize_t got = -1;
  do {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    got = ::recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got >= 0) collect(message, passed);
  return resultOf(got);
}

int64_t sendLocal(int fd, iovec* pieces, size_t count, const std::vector<int>& passed) {
  if (passed.size() > kMaxPassed) return -EINVAL;
  alignas(cmsghdr) char control[kPassedRoom];
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  if (!passed.empty()) {
    const size_t bytes = sizeof(int) * passed.size();
    std::memset(control, 0, sizeof control);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(part), passed.data(), bytes);
  }
  ssize_t put = -1;
  do put = ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (put < 0 && errno == EINTR);
  return resultOf(put);
}

int64_t listenLocal(const std::string& path) {
  sockaddr_un name{};
  if (path.empty() || path.size() >= sizeof name.sun_path) return path.empty() ? -EINVAL : -ENAMETOOLONG;
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.c_str(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return -errno;
  // Linux gives the file the mode the socket has when it is bound.
  if (::fchmod(fd.get(), S_IRUSR | S_IWUSR) < 0) return -errno;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) < 0) return -errno;
  return ::listen(fd.get(), SOMAXCONN) < 0 ? -errno : fd.release();
}

int localPair(int (&pair)[2]) {
  return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ? -errno : 0;
}

bool isLocalStream(int fd) {
  const auto option = [&](int name) {
    int value = -1;
    socklen_t size = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
  };
  return option(SO_DOMAIN) == AF_UNIX && option(SO_TYPE) == SOCK_STREAM;
}

}  // namespace blockferry
