// SPDX-License-Identifier: Apache-2.0
// The JavaScript face of descriptors.h. JS thread only; native/descriptors.ts is its only caller.
#pragma once

#include <napi.h>

#include <memory>

#include "descriptors.h"

namespace blockferry {

class DescriptorsObject : public Napi::ObjectWrap<DescriptorsObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit DescriptorsObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value accessMode(const Napi::CallbackInfo& info);     // (fd) → O_RDONLY, O_WRONLY, O_RDWR or -errno
  Napi::Value duplicate(const Napi::CallbackInfo& info);      // (fd) → fd or -errno
  Napi::Value referenceTo(const Napi::CallbackInfo& info);    // (fd) → fd or -errno
  Napi::Value isLocalStream(const Napi::CallbackInfo& info);  // (fd) → boolean
  Napi::Value listenLocal(const Napi::CallbackInfo& info);    // (path) → fd or -errno
  Napi::Value localPair(const Napi::CallbackInfo& info);      // () → two fds or -errno
  void close(const Napi::CallbackInfo& info);                 // (fd): soon, without waiting for its storage

  std::shared_ptr<Closer> closer_ = std::make_shared<Closer>();
};

}  // namespace blockferry
