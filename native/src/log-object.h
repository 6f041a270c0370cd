// SPDX-License-Identifier: Apache-2.0
// The JavaScript face of a LogWriter. JS thread only; native/log-writer.ts is its only caller.
#pragma once

#include <napi.h>

#include <memory>

#include "log-writer.h"

namespace blockferry {

class LogObject : public Napi::ObjectWrap<LogObject> {
 public:
  static Napi::Function define(Napi::Env env);
  // (fd, room)
  explicit LogObject(const Napi::CallbackInfo& info);
  ~LogObject() override;

 private:
  Napi::Value write(const Napi::CallbackInfo& info);    // (text) → whether there was room
  Napi::Value flush(const Napi::CallbackInfo& info);    // (ms) → whether everything is written
  Napi::Value dropped(const Napi::CallbackInfo& info);  // () → texts dropped

  std::shared_ptr<LogWriter> writer_;
};

}  // namespace blockferry
