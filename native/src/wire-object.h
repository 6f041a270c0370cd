// SPDX-License-Identifier: Apache-2.0
// The JavaScript face of a connected stream socket whose user says what is read, where to, and when: it carries a protocol
// with lengths in front, so nothing is read that belongs to somebody else. JS thread only; native/wire.ts is its only caller.
// Nothing waits: what cannot be done now is -EAGAIN, and watch() says when to try again.
#pragma once

#include <napi.h>

#include <memory>

#include "fd-poll.h"

namespace blockferry {

class WireObject : public Napi::ObjectWrap<WireObject> {
 public:
  static Napi::Function define(Napi::Env env);
  // (fd, onReady): owns the descriptor from now on. Throws with `errno`; then it is closed.
  explicit WireObject(const Napi::CallbackInfo& info);
  ~WireObject() override;

 private:
  Napi::Value receive(const Napi::CallbackInfo& info);   // (bytes, from, to) → bytes, 0 at the end, or -errno
  Napi::Value send(const Napi::CallbackInfo& info);      // (pieces, index, offset) → bytes or -errno
  void watch(const Napi::CallbackInfo& info);            // (readable, writable)
  Napi::Value shutdown(const Napi::CallbackInfo& info);  // () → 0 or -errno: nothing more will be sent
  void close(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);   // () → the descriptor, the caller's now, or -errno

  void ready(int events);
  void end();

  // nullptr: closed.
  FdPoll* poll_ = nullptr;
  Napi::FunctionReference onReady_;
  std::unique_ptr<Napi::AsyncContext> context_;
};

}  // namespace blockferry
