// SPDX-License-Identifier: Apache-2.0
// How the kernel shares the processors between who answers and who moves data.
#pragma once

namespace blockferry {

/** The calling thread, and those it starts, work in bulk: a wake-up of theirs pushes nobody aside. 0 or -errno. */
int scheduleForThroughput();

/**
 * The calling thread runs briefly and wants to run soon: the lowest real-time priority where the process may have it,
 * else shorter slices (Linux 6.12; before, no effect). Threads it starts later are ordinary ones. 0 or -errno.
 * Shorter slices alone do not help against a kernel that works for others without being preemptible: beside a copy on
 * two processors a 2 ms timer was late by 0.66 ms in one case of a hundred, with negative niceness 0.59, so 0.06.
 */
int scheduleForLatency();

}  // namespace blockferry
