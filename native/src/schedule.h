// SPDX-License-Identifier: Apache-2.0
// How the kernel shares the processors between who answers and who moves data.
#pragma once

namespace blockferry {

/** The calling thread, and those it starts, work in bulk: a wake-up of theirs pushes nobody aside. 0 or -errno. */
int scheduleForThroughput();

/** The calling thread runs briefly and wants to run soon: shorter slices (Linux 6.12; before, no effect). 0 or -errno. */
int scheduleForLatency();

}  // namespace blockferry
