// SPDX-License-Identifier: Apache-2.0
// What goes back to JavaScript: finished requests in batches, and the engine's own state.
#include <algorithm>

#include "batch.h"
#include "engine-object.h"
#include "loop-call.h"

namespace blockferry {

namespace {

const char* kindName(FileKind kind) {
  switch (kind) {
    case FileKind::file: return "file";
    case FileKind::block: return "block";
    case FileKind::character: return "char";
    case FileKind::directory: return "directory";
    case FileKind::fifo: return "fifo";
    case FileKind::socket: return "socket";
  }
  return "file";
}

Napi::Value factsOf(Napi::Env env, const FileFacts& facts) {
  auto object = Napi::Object::New(env);
  object.Set("kind", kindName(facts.kind));
  object.Set("size", static_cast<double>(facts.size));
  object.Set("allocated", static_cast<double>(facts.allocated));
  object.Set("direct", facts.direct);
  object.Set("requestAlign", facts.requestAlign);
  object.Set("memoryAlign", facts.memoryAlign);
  object.Set("device", facts.device);
  object.Set("inode", facts.inode);
  return object;
}

Napi::Value extentsOf(Napi::Env env, const std::vector<double>& extents) {
  auto list = Napi::Float64Array::New(env, extents.size());
  std::copy(extents.begin(), extents.end(), list.Data());
  return list;
}

bool hasExtra(const Request& request) {
  if (request.pieces) return request.result < 0;
  if (request.sendsFile()) return request.failedPart >= 0;
  if (request.op == Op::receive) return !request.heads.empty();
  return request.result >= 0 && (request.op == Op::stat || request.op == Op::extents || request.op == Op::lane);
}

Napi::Value bytesOf(Napi::Env env, const std::vector<std::byte>& bytes) {
  auto list = Napi::Uint8Array::New(env, bytes.size());
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(list.Data()));
  return list;
}

}  // namespace

Napi::Value EngineObject::extraOf(const Request& request) {
  if (request.pieces) return Napi::Number::New(Env(), static_cast<double>(request.pieces->failedPiece()));
  if (request.sendsFile()) return Napi::Number::New(Env(), static_cast<double>(request.failedPart));
  if (request.op == Op::lane) return endLane(request);
  if (request.op == Op::receive) return bytesOf(Env(), request.heads);
  return request.op == Op::stat ? factsOf(Env(), request.facts) : extentsOf(Env(), request.extents);
}

void EngineObject::deliver() {
  if (poll_ == nullptr) return;
  const std::shared_ptr<IoFront> front = front_;
  const auto done = front->reap();
  if (front->requests() == 0) poll_->hold(false);
  front->hold();
  // What is called may end the engine; then nobody waits for the rest.
  for (size_t from = 0; from < done.size() && poll_ != nullptr; from += kDeliverAtOnce) {
    deliverSome(done, from, std::min(kDeliverAtOnce, done.size() - from));
  }
  front->release();
}

// One call into JavaScript: [id, result, id, result, …] and, where verbs add something, [id, value, id, value, …].
void EngineObject::deliverSome(const std::vector<std::unique_ptr<Request>>& done, size_t from, size_t count) {
  Napi::Env env = Env();
  Napi::HandleScope scope(env);
  auto pairs = pairs_.Value();
  double* into = pairs.Data();
  auto extras = Napi::Array::New(env);
  uint32_t extraCount = 0;
  for (size_t index = 0; index < count; ++index) {
    const Request& request = *done[from + index];
    into[index * 2] = request.id;
    into[index * 2 + 1] = static_cast<double>(request.result);
    if (request.op == Op::lane) lanes_.erase(request.id);
    if (!hasExtra(request)) continue;
    extras.Set(extraCount++, request.id);
    extras.Set(extraCount++, extraOf(request));
  }
  callFromLoop(env, *context_, onFinished_, {pairs, Napi::Number::New(env, static_cast<double>(count)), extras});
}

Napi::Value EngineObject::oldest(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto oldest = front_ ? front_->oldest() : std::nullopt;
  if (!oldest) return env.Undefined();
  auto list = Napi::Array::New(env, 3);
  list.Set(uint32_t{0}, static_cast<double>(oldest->op));
  list.Set(uint32_t{1}, oldest->fileId);
  list.Set(uint32_t{2}, static_cast<double>(oldest->ageMs));
  return list;
}

Napi::Value EngineObject::stats(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto list = Napi::Array::New(env, 5);
  list.Set(uint32_t{0}, static_cast<double>(front_->requests()));
  list.Set(uint32_t{1}, static_cast<double>(front_->bytes()));
  list.Set(uint32_t{2}, static_cast<double>(front_->tasks()));
  list.Set(uint32_t{3}, slots_->inUse());
  list.Set(uint32_t{4}, slots_->mapped());
  return list;
}

}  // namespace blockferry
