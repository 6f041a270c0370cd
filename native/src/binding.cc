// SPDX-License-Identifier: Apache-2.0
// The addon's exports. Loaded once per environment (main thread and workers); holds no state of its own.
#include <napi.h>
#include <unistd.h>

#include "descriptors-object.h"
#include "engine-object.h"
#include "local-socket-object.h"
#include "log-object.h"
#include "notify.h"
#include "pages.h"
#include "scanner-object.h"
#include "schedule.h"
#include "wire-object.h"

namespace blockferry {

namespace {

// (code): ends the process now. Nothing is flushed, nobody is waited for.
void exitNow(const Napi::CallbackInfo& info) { _exit(info[0].As<Napi::Number>().Int32Value()); }

// (address, text) → 0 or -errno
Napi::Value notify(const Napi::CallbackInfo& info) {
  const int result = sendNotice(info[0].As<Napi::String>().Utf8Value(), info[1].As<Napi::String>().Utf8Value());
  return Napi::Number::New(info.Env(), result);
}

// (throughput) → 0 or -errno; of the calling thread
Napi::Value schedule(const Napi::CallbackInfo& info) {
  const bool throughput = info[0].As<Napi::Boolean>();
  return Napi::Number::New(info.Env(), throughput ? scheduleForThroughput() : scheduleForLatency());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("Engine", EngineObject::define(env));
  exports.Set("Log", LogObject::define(env));
  exports.Set("LocalSocket", LocalSocketObject::define(env));
  exports.Set("Wire", WireObject::define(env));
  exports.Set("Descriptors", DescriptorsObject::define(env));
  exports.Set("Scanner", ScannerObject::define(env));
#ifdef BLOCKFERRY_PLAIN_THREADS
  exports.Set("ownGroups", false);
#else
  exports.Set("ownGroups", true);
#endif
  exports.Set("exitNow", Napi::Function::New<exitNow>(env));
  exports.Set("notify", Napi::Function::New<notify>(env));
  exports.Set("pageBits", Napi::Function::New<pageBits>(env));
  exports.Set("pageDigests", Napi::Function::New<pageDigests>(env));
  exports.Set("pageDifferences", Napi::Function::New<pageDifferences>(env));
  exports.Set("crc32c", Napi::Function::New<checksum>(env));
  exports.Set("schedule", Napi::Function::New<schedule>(env));
  return exports;
}

}  // namespace

}  // namespace blockferry

static Napi::Object initBlockferry(Napi::Env env, Napi::Object exports) { return blockferry::init(env, exports); }

NODE_API_MODULE(blockferry, initBlockferry)
