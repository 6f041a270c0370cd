// SPDX-License-Identifier: Apache-2.0
// The verbs of streams. Run on any task of the engine's group; called by Streams, one request at a time in each
// direction of a stream. Rule: what a stream has come to stays so, every later request gets the same answer.
#pragma once

#include "ending.h"
#include "request.h"

namespace blockferry {

// Bytes received, 0 at the end, or -errno.
int64_t receiveFrom(Request& request, const Ending& ending);
// The request's length, or -errno.
int64_t sendTo(Request& request, const Ending& ending);

}  // namespace blockferry
