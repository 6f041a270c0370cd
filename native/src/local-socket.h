// SPDX-License-Identifier: Apache-2.0
// System calls of a connected Unix stream socket that may carry descriptors. Any thread, no N-API.
// Nothing here waits: where nothing can be done now the result is -EAGAIN.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "unique-fd.h"

namespace blockferry {

// What the kernel lets one message carry (SCM_MAX_FD).
constexpr size_t kMaxPassed = 253;

/**
 * @param passed  gets the descriptors that came with these bytes, in order. Those for which this process has no number
 *                left are lost; the kernel closes them.
 * @returns bytes, 0 at the end, or -errno
 */
int64_t receiveLocal(int fd, void* into, size_t room, std::vector<UniqueFd>& passed);

/**
 * @param passed  descriptors to send along with the first byte, kMaxPassed at most; they stay ours
 * @returns bytes taken, at least one, or -errno. A peer that is gone is -EPIPE, never a signal.
 */
int64_t sendLocal(int fd, iovec* pieces, size_t count, const std::vector<int>& passed);

/**
 * Listens at a path, where only the owner of the process may connect: at no time may others.
 * @returns the descriptor, or -errno
 */
int64_t listenLocal(const std::string& path);

// Two sockets that are connected with each other; 0 or -errno.
int localPair(int (&pair)[2]);

// Whether it is a Unix stream socket.
bool isLocalStream(int fd);

}  // namespace blockferry
