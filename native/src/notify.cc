// SPDX-License-Identifier: Apache-2.0
// See notify.h.
#include "notify.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "unique-fd.h"

namespace blockferry {

int sendNotice(const std::string& address, const std::string& text) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (address.empty() || address.size() >= sizeof to.sun_path) return -EINVAL;
  std::memcpy(to.sun_path, address.data(), address.size());
  socklen_t size = offsetof(sockaddr_un, sun_path) + static_cast<socklen_t>(address.size());
  if (address[0] == '@') to.sun_path[0] = '\0';
  else ++size;
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return -errno;
  const auto* name = reinterpret_cast<const sockaddr*>(&to);
  const ssize_t sent = ::sendto(fd.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL, name, size);
  return sent < 0 ? -errno : 0;
}

}  // namespace blockferry
