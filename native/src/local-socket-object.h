// SPDX-License-Identifier: Apache-2.0
// The JavaScript face of a connected Unix stream socket. JS thread only; native/local-socket.ts is its only caller.
// Nothing waits: what cannot be done now is -EAGAIN, and watch() says when to try again.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <memory>
#include <vector>

#include "fd-poll.h"

namespace blockferry {

class LocalSocketObject : public Napi::ObjectWrap<LocalSocketObject> {
 public:
  static Napi::Function define(Napi::Env env);
  // (fd, onRead, onWritable): owns the descriptor from now on. Throws with `errno`; then it is closed.
  explicit LocalSocketObject(const Napi::CallbackInfo& info);
  ~LocalSocketObject() override;

 private:
  Napi::Value send(const Napi::CallbackInfo& info);        // (pieces, index, offset, passed?) → bytes or -errno
  Napi::Value takePassed(const Napi::CallbackInfo& info);  // () → descriptors that came, the caller's now
  void watch(const Napi::CallbackInfo& info);              // (readable, writable)
  Napi::Value shutdown(const Napi::CallbackInfo& info);    // () → 0 or -errno: nothing more will be sent
  void close(const Napi::CallbackInfo& info);

  void ready(int events);
  void read();
  void call(const Napi::FunctionReference& function, std::initializer_list<napi_value> arguments);
  void end();

  // nullptr: closed.
  FdPoll* poll_ = nullptr;
  // Came with the bytes that onRead is being told of; closed after it unless it took them.
  std::vector<UniqueFd> passed_;
  Napi::FunctionReference onRead_;
  Napi::FunctionReference onWritable_;
  std::unique_ptr<Napi::AsyncContext> context_;
};

}  // namespace blockferry
