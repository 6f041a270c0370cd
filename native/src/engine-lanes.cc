// SPDX-License-Identifier: Apache-2.0
// Lanes as JavaScript sees them: lent by a request, looked at and called back by its id.
#include <algorithm>
#include <cerrno>

#include "engine-object.h"
#include "http-lane.h"
#include "nbd-lane.h"

namespace blockferry {

namespace {

double numberAt(const Napi::CallbackInfo& info, size_t index) { return info[index].As<Napi::Number>().DoubleValue(); }

Napi::Value copied(Napi::Env env, const std::vector<std::byte>& bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

Napi::Value refused(Napi::Env env) { return Napi::Number::New(env, -EINVAL); }

// Bytes as JavaScript's codecs of heads have them.
std::string latin1(Napi::Value bytes) {
  const auto array = bytes.As<Napi::Uint8Array>();
  return {reinterpret_cast<const char*>(array.Data()), array.ByteLength()};
}

// Behind what is in the list.
void addCounts(Napi::Array list, const LaneCounts& counts) {
  for (const int64_t count :
       {counts.reads, counts.readBytes, counts.writes, counts.writeBytes, counts.from, counts.to}) {
    list.Set(list.Length(), static_cast<double>(count));
  }
}

}  // namespace

Napi::Value EngineObject::submitLane(const Napi::CallbackInfo& info) {
  const auto bits = [&](size_t index) { return info[index].As<Napi::Number>().Uint32Value(); };
  const double length = numberAt(info, 7);
  auto request = laneRequest(info);
  if (!(length >= 0 && length <= kMaxOffset) || bits(10) == 0 || !request) return refused(info.Env());
  const LaneTerms terms{static_cast<ReplyStyle>(bits(8)), info[9].As<Napi::Boolean>(), bits(10),
                        static_cast<int64_t>(length), info[11].As<Napi::Number>().Int32Value()};
  return acceptLane(info.Env(), std::move(request), std::make_shared<NbdLane>(terms));
}

Napi::Value EngineObject::submitHttpLane(const Napi::CallbackInfo& info) {
  const double length = numberAt(info, 7);
  const double each = numberAt(info, 8);
  const double dateAt = numberAt(info, 11);
  auto request = laneRequest(info);
  if (!(length >= each && length <= kMaxOffset) || !request || !(each >= 1 && each <= request->length))
    return refused(info.Env());
  HttpTerms terms{};
  terms.length = static_cast<int64_t>(length);
  terms.each = static_cast<int64_t>(each);
  terms.writes = info[9].As<Napi::Boolean>();
  terms.idleMs = info[10].As<Napi::Number>().Int32Value();
  terms.dateAt = static_cast<size_t>(dateAt);
  const auto texts = info[12].As<Napi::Array>();
  for (uint32_t index = 0; index < 3; index++) {
    terms.head[index] = latin1(texts.Get(index));
    terms.reply[index] = latin1(texts.Get(index + 3));
  }
  if (!(dateAt >= 0 && dateAt + kDateLength <= static_cast<double>(terms.reply[0].size()))) return refused(info.Env());
  return acceptLane(info.Env(), std::move(request), std::make_shared<HttpLane>(std::move(terms)));
}

std::unique_ptr<Request> EngineObject::laneRequest(const Napi::CallbackInfo& info) {
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(info[0].As<Napi::Number>().Uint32Value());
  request->id = numberAt(info, 1);
  request->fileId = numberAt(info, 2);
  request->toFileId = numberAt(info, 3);
  const double room = numberAt(info, 6);
  if (!(room >= 1)) return nullptr;
  request->length = static_cast<int64_t>(room);
  if (!useSlot(*request, numberAt(info, 4), numberAt(info, 5))) return nullptr;
  return request;
}

Napi::Value EngineObject::acceptLane(Napi::Env env, std::unique_ptr<Request> request, std::shared_ptr<Lane> lane) {
  const double id = request->id;
  request->lane = lane;
  const int error = accept(std::move(request));
  if (error == 0) lanes_.emplace(id, std::move(lane));
  return Napi::Number::New(env, error);
}

Napi::Value EngineObject::laneCounts(const Napi::CallbackInfo& info) {
  const auto found = lanes_.find(numberAt(info, 0));
  auto list = Napi::Array::New(info.Env());
  addCounts(list, found == lanes_.end() ? LaneCounts{} : found->second->counts());
  return list;
}

void EngineObject::callBack(const Napi::CallbackInfo& info) {
  const auto found = lanes_.find(numberAt(info, 0));
  if (found != lanes_.end() && front_) front_->callBack(found->second, info[1].As<Napi::Boolean>());
}

Napi::Value EngineObject::endLane(const Request& request) {
  Napi::Env env = Env();
  auto list = Napi::Array::New(env);
  list.Set(uint32_t{0}, copied(env, request.lane->received()));
  list.Set(uint32_t{1}, copied(env, request.lane->unsent()));
  const std::vector<double>& places = request.lane->places();
  auto told = Napi::Float64Array::New(env, places.size());
  std::copy(places.begin(), places.end(), told.Data());
  list.Set(uint32_t{2}, told);
  addCounts(list, request.lane->counts());
  return list;
}

}  // namespace blockferry
