// SPDX-License-Identifier: Apache-2.0
// Tells a service manager about our state.
#pragma once

#include <string>

namespace blockferry {

/**
 * One datagram to a Unix socket, without waiting. Any thread.
 * @param address  path, or '@name' for an abstract one (the form of $NOTIFY_SOCKET)
 * @returns 0 or -errno
 */
int sendNotice(const std::string& address, const std::string& text);

}  // namespace blockferry
