// SPDX-License-Identifier: Apache-2.0
// The io_uring engine is refused by this build: createEngine falls back to threads under 'auto'.
#include <cerrno>

#include "engine.h"

namespace blockferry {

namespace {
class RefusedEngine : public Engine {
 public:
  int start(int, std::function<void()>) override { return -ENOSYS; }
  void submit(Request*) override {}
  void reap(std::vector<Request*>&) override {}
  void forget(uint32_t) override {}
  size_t tasks() override { return 0; }
  void stop() override {}
};
}  // namespace

std::unique_ptr<Engine> makeRingEngine(size_t, uint32_t) { return std::make_unique<RefusedEngine>(); }

}  // namespace blockferry
