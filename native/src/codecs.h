// SPDX-License-Identifier: Apache-2.0
// compress, decompress and digest of one engine: brings the pieces of memory together and lends each request a coder.
// Used by ThreadEngine. There are as many coders as ever worked at once; idle tasks let them go.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "coder.h"

namespace blockferry {

class Codecs {
 public:
  // Any task, no N-API. Performs the request and fills in its result.
  void perform(Request& request);
  // Any task. Frees the coders that nobody uses.
  void dropIdle();

 private:
  std::unique_ptr<Coder> borrow();

  std::mutex lock_;  // guards idle_
  std::vector<std::unique_ptr<Coder>> idle_;
};

}  // namespace blockferry
