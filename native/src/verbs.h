// SPDX-License-Identifier: Apache-2.0
// The verbs as blocking calls. Run on any task of the engine's group, know nothing about JavaScript or queues.
// Rule: a result is >= 0 or -errno; EINTR is never a result.
#pragma once

#include <cerrno>

#include "request.h"

namespace blockferry {

// Performs the request on the calling task and fills in its result. Computations are not performed here, but by Codecs.
void perform(Request& request);

int64_t openFile(Request& request);
// A file of a descriptor that somebody else opened, and may share with us.
int64_t adoptFile(Request& request, UniqueFd fd);
// Facts asked anew; 0 or -errno.
int64_t statFile(File& file, FileFacts& facts);

// Bytes read, short only at the end of the file. Any offset, length and memory; O_DIRECT's alignment is kept here.
int64_t readFile(File& file, int64_t offset, int64_t length, std::byte* into);
// `length`, or -errno. Takes the file's write gate.
int64_t writeFile(File& file, int64_t offset, int64_t length, const std::byte* from);
// The same for memory that lies apart: one call where alignment allows it, else part by part. A short read ends it.
int64_t readParts(Request& request);
int64_t writeParts(Request& request);
// Zeroes written as data. `length`, or -errno.
int64_t writeZeroes(File& file, int64_t offset, int64_t length);

int64_t zeroFile(File& file, int64_t offset, int64_t length, uint32_t flags);
int64_t growFile(File& file, int64_t offset, int64_t length);
int64_t discardFile(File& file, int64_t offset, int64_t length);
int64_t listExtents(File& file, int64_t offset, int64_t length, uint32_t limit, std::vector<double>& extents);

// Whether every byte is zero; stops at the first block that is not.
bool isZero(const std::byte* data, size_t length);

// Means "not here": the kernel's ways of saying that a call is not supported for this file.
bool isUnsupported(int error);

// Repeats a call while it says EINTR. Returns its result or -errno.
template <typename Call>
int64_t retry(Call call) {
  for (;;) {
    const int64_t result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

}  // namespace blockferry
