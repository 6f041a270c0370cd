// SPDX-License-Identifier: Apache-2.0
// Decompresses one stream that never ends, piece by piece: a channel of multifd. Used by ChannelScanner.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace blockferry {

class StreamDecoder {
 public:
  virtual ~StreamDecoder() = default;

  struct Step {
    size_t taken;
    size_t made;
    bool damaged;
  };
  // As much as the input gives and the room takes. Nothing taken and nothing made: it needs more of one of them.
  virtual Step step(const std::byte* from, size_t length, std::byte* into, size_t room) = 0;
};

// nullptr: the machine does not have the library, or no memory; `problem` says which.
std::unique_ptr<StreamDecoder> makeZlibDecoder(std::string& problem);
std::unique_ptr<StreamDecoder> makeZstdDecoder(std::string& problem);

}  // namespace blockferry
