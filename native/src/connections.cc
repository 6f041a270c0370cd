// SPDX-License-Identifier: Apache-2.0
// The listen, portOf, accept and connect verbs. Addresses are tried one after the other; the first that works is taken.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "stream-verbs.h"
#include "verbs.h"

namespace blockferry {

namespace {

struct Address {
  sockaddr_storage name{};
  socklen_t size = 0;

  int family() const { return name.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

int64_t unixAddress(const std::string& path, std::vector<Address>& into) {
  sockaddr_un name{};
  if (path.empty()) return -EINVAL;
  if (path.size() >= sizeof name.sun_path) return -ENAMETOOLONG;
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
  Address& address = into.emplace_back();
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  std::memcpy(&address.name, &name, address.size);
  return 0;
}

int64_t lookupError(int error) {
  switch (error) {
    case EAI_SYSTEM: return -errno;
    case EAI_AGAIN: return -EAGAIN;
    case EAI_MEMORY: return -ENOMEM;
    default: return -EADDRNOTAVAIL;  // no such name
  }
}

// @param passive  an empty name means every address of this machine, else the machine itself
int64_t tcpAddresses(const std::string& host, uint32_t port, bool passive, std::vector<Address>& into) {
  if (port > 65535) return -EINVAL;
  addrinfo wish{};
  wish.ai_socktype = SOCK_STREAM;
  wish.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const char* const name = host.empty() ? nullptr : host.c_str();
  const int error = getaddrinfo(name, std::to_string(port).c_str(), &wish, &list);
  if (error != 0) return lookupError(error);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(list, freeaddrinfo);
  for (const addrinfo* each = list; each != nullptr; each = each->ai_next) {
    Address& address = into.emplace_back();
    address.size = each->ai_addrlen;
    std::memcpy(&address.name, each->ai_addr, each->ai_addrlen);
  }
  // IPv6's "every address" takes IPv4 in, the other way round not.
  if (passive && host.empty()) {
    std::stable_partition(into.begin(), into.end(), [](const Address& each) { return each.family() == AF_INET6; });
  }
  return 0;
}

int64_t addressesOf(const Request& request, bool passive, std::vector<Address>& into) {
  if (request.flags == kAddressUnix) return unixAddress(request.path, into);
  return tcpAddresses(request.path, request.mode, passive, into);
}

// Calls `tryIt` until it gives a socket. Its last error.
template <typename Try>
int64_t openFirst(Request& request, bool passive, Try tryIt) {
  std::vector<Address> addresses;
  int64_t error = addressesOf(request, passive, addresses);
  for (const Address& address : addresses) {
    UniqueFd fd;
    error = tryIt(address, fd);
    if (error < 0) continue;
    request.opened = socketFile(std::move(fd));
    return 0;
  }
  return error;
}

int64_t listenTo(const Address& address, UniqueFd& fd) {
  fd = UniqueFd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return -errno;
  const int yes = 1;
  if (address.family() != AF_UNIX) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  // Linux gives the file the mode the socket has when it is bound: at no time may others connect.
  else if (fchmod(fd.get(), S_IRUSR | S_IWUSR) < 0) return -errno;
  if (::bind(fd.get(), address.get(), address.size) < 0) return -errno;
  return ::listen(fd.get(), SOMAXCONN) < 0 ? -errno : 0;
}

// Where a Unix socket's listener has no room, only connect() itself waits for some: in slices, to see the engine's end.
int64_t connectUnix(int fd, const Address& address, const Ending& ending) {
  const timeval slice{0, 100'000};
  const timeval none{};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice);
  int64_t result = -EAGAIN;
  while (result == -EAGAIN && !ending.begun()) result = retry([&] { return ::connect(fd, address.get(), address.size); });
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
  return result == -EAGAIN ? -ECANCELED : result;
}

int64_t connectTcp(int fd, const Address& address, const Ending& ending) {
  if (::connect(fd, address.get(), address.size) == 0) return 0;
  if (errno != EINPROGRESS) return -errno;
  const int64_t ready = ending.wait(fd, POLLOUT, -1, -1);
  if (ready < 0) return ready;
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? -errno : -error;
}

// Another connection may be the next: this one has gone, or a network was away for a moment.
bool isPassing(int64_t error) {
  return error == -EAGAIN || error == -ECONNABORTED || error == -EPROTO || error == -ENETDOWN || error == -ENETUNREACH ||
         error == -EHOSTDOWN || error == -EHOSTUNREACH || error == -ENOPROTOOPT || error == -ENONET;
}

// What a Unix socket's peer may leave unread, bytes. With the kernel's 208 KiB, of which a sender is told only when three
// quarters are free, both sides wake each other for every few pages. TCP sizes its own buffers.
constexpr int kSendRoom = 4 << 20;

bool isUnix(int fd) {
  int family = 0;
  socklen_t size = sizeof family;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0 && family == AF_UNIX;
}

void makeRoom(int fd) {
  // The second is bounded by net.core.wmem_max; the first takes a privilege.
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSendRoom, sizeof kSendRoom) == 0) return;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendRoom, sizeof kSendRoom);
}

}  // namespace

std::shared_ptr<File> socketFile(UniqueFd fd) {
  // Whoever sends slots wants no gathering of small pieces. Refused where it is no TCP.
  const int yes = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  auto file = std::make_shared<File>();
  if (isUnix(fd.get())) {
    makeRoom(fd.get());
    file->ours = fcntl(fd.get(), F_SETFL, O_RDWR | O_NONBLOCK) == 0;
  }
  file->fd = std::move(fd);
  file->kind = FileKind::socket;
  file->cannot(Can::nowait);
  file->noSeek.store(true);
  return file;
}

int64_t listenAt(Request& request) {
  return openFirst(request, true, [](const Address& address, UniqueFd& fd) { return listenTo(address, fd); });
}

int64_t portOf(File& file) {
  Address address;
  address.size = sizeof address.name;
  auto* const name = reinterpret_cast<sockaddr*>(&address.name);
  if (getsockname(file.fd.get(), name, &address.size) < 0) return -errno;
  if (address.family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(name)->sin_port);
  if (address.family() == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(name)->sin6_port);
  return 0;
}

int64_t acceptFrom(Request& request, const Ending& ending) {
  File& file = *request.file;
  for (;;) {
    const int64_t ready = file.stream.wait(file.fd.get(), Direction::read, -1, ending);
    if (ready < 0) return ready;
    const int64_t fd = retry([&] { return ::accept4(file.fd.get(), nullptr, nullptr, SOCK_CLOEXEC); });
    if (fd >= 0) {
      request.opened = socketFile(UniqueFd(static_cast<int>(fd)));
      return 0;
    }
    if (file.stream.ended(Direction::read) != Stream::kGoesOn) return -ECANCELED;
    if (!isPassing(fd)) return fd;
  }
}

int64_t connectTo(Request& request, const Ending& ending) {
  return openFirst(request, false, [&](const Address& address, UniqueFd& fd) -> int64_t {
    const bool local = address.family() == AF_UNIX;
    fd = UniqueFd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | (local ? 0 : SOCK_NONBLOCK), 0));
    if (!fd.valid()) return -errno;
    return local ? connectUnix(fd.get(), address, ending) : connectTcp(fd.get(), address, ending);
  });
}

}  // namespace blockferry
