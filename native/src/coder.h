// SPDX-License-Identifier: Apache-2.0
// Compresses and decompresses one piece of contiguous memory after another, for one task at a time. Used by Codecs.
// It keeps the libraries' contexts between pieces: making one costs more than compressing a small cluster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "libraries.h"
#include "request.h"

namespace blockferry {

// Memory that is used anew for every piece; grows, never shrinks.
class Scratch {
 public:
  // nullptr: no memory. Bytes are stale.
  std::byte* atLeast(size_t bytes);

 private:
  std::unique_ptr<std::byte[]> memory_;
  size_t size_ = 0;
};

class Coder {
 public:
  // Bytes produced. -ENOSPC: they do not fit into `room`. -ELIBACC: the machine has no such library.
  int64_t compress(Codec codec, const std::byte* from, size_t length, std::byte* into, size_t room);

  /**
   * @param from   compressed data, and what follows it up to the end of a sector
   * @param total  bytes that must come out
   * @returns 0, -EIO when the data is damaged, -ENOMEM, -ELIBACC
   */
  int64_t decompress(Codec codec, const std::byte* from, size_t length, std::byte* into, size_t total);

  Scratch input;
  Scratch output;

 private:
  int64_t deflate(const std::byte* from, size_t length, std::byte* into, size_t room);
  int64_t inflate(const std::byte* from, size_t length, std::byte* into, size_t total);
  int64_t compressFrame(const std::byte* from, size_t length, std::byte* into, size_t room);
  int64_t decompressFrames(const std::byte* from, size_t length, std::byte* into, size_t total);

  std::unique_ptr<ZlibStream, void (*)(ZlibStream*)> deflater_{nullptr, nullptr};
  std::unique_ptr<ZlibStream, void (*)(ZlibStream*)> inflater_{nullptr, nullptr};
  std::unique_ptr<void, size_t (*)(void*)> compressor_{nullptr, nullptr};
  std::unique_ptr<void, size_t (*)(void*)> decompressor_{nullptr, nullptr};
};

}  // namespace blockferry
