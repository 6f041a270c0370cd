// SPDX-License-Identifier: Apache-2.0
// The verbs of streams, as blocking calls for any task of the engine's group. Those that wait for a peer are called by Streams,
// one at a time in each direction of a stream. Rule: what a stream has come to stays so, later requests get the same answer.
#pragma once

#include "ending.h"
#include "request.h"

namespace blockferry {

// A file of a connected or listening socket.
std::shared_ptr<File> socketFile(UniqueFd fd);
// 0 and the request's new file, or -errno.
int64_t listenAt(Request& request);
int64_t acceptFrom(Request& request, const Ending& ending);
int64_t connectTo(Request& request, const Ending& ending);
// Port of a TCP socket, else 0; or -errno.
int64_t portOf(File& file);

// Bytes received, 0 at the end, or -errno.
int64_t receiveFrom(Request& request, const Ending& ending);
// The same for data of packets; their heads are added to the request's. 0 with heads is no end.
int64_t receivePacketsFrom(Request& request, const Ending& ending);
// The request's length, or -errno.
int64_t sendTo(Request& request, const Ending& ending);
// Bytes sent, heads and ranges; or -errno, and `failedPart` where it is the file's.
int64_t sendFileTo(Request& request, const Ending& ending);
// The same for pages of a file, behind their heads.
int64_t sendFilePagesTo(Request& request, const Ending& ending);
// 0 once the peer has taken what was sent, or has gone; or -errno.
int64_t drainTo(Request& request, const Ending& ending);

}  // namespace blockferry
