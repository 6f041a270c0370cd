// SPDX-License-Identifier: Apache-2.0
// The JavaScript face of one engine: converts arguments and results, and ties lifetimes to the environment.
// JS thread only. native/engine.ts is its only caller and checks types; ranges are checked here.
#pragma once

#include <napi.h>

#include <memory>
#include <unordered_map>
#include <vector>

#include "io-front.h"
#include "loop-poll.h"
#include "slot-pool.h"

namespace blockferry {

// Results per call into JavaScript at most.
constexpr size_t kDeliverAtOnce = 256;
constexpr double kMaxOffset = 9007199254740991;  // Number.MAX_SAFE_INTEGER

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env);

  // (kind, slotSize, maxSlots, maxRequests, maxBytes, onFinished(pairs, count, extras))
  explicit EngineObject(const Napi::CallbackInfo& info);
  ~EngineObject() override;

  size_t slotSize() const { return slots_->slotSize(); }
  // Memory of a taken slot. False: there is no such range.
  bool place(double slot, double slotOffset, double length, Piece& piece);

 private:
  bool start(Napi::Env env, const std::string& kind, Limits limits);
  // (op, id, file, offset, length, a, b, flags) → 0 or -errno
  Napi::Value submit(const Napi::CallbackInfo& info);
  // (op, id, file, pieces, slot, slotOffset, flags, atOnce, count) → 0 or -errno; pieces are [offset, length, …]
  Napi::Value submitPieces(const Napi::CallbackInfo& info);
  // (op, id, path, flags, mode, without) → 0 or -errno
  Napi::Value submitPath(const Napi::CallbackInfo& info);
  // (op, id, file, pages, count, pageSize, slot, slotOffset, first) → 0 or -errno; pages are [offset in the block, length, …]
  Napi::Value submitPages(const Napi::CallbackInfo& info);
  // (op, id, file, stream, parts, count, slot, slotOffset) → 0 or -errno; parts are [bytes of the slot, offset, length, …]
  Napi::Value submitFile(const Napi::CallbackInfo& info);
  // (op, id, codec, total, skip, from, into) → 0 or -errno; places are [slot, offset, length, …]
  Napi::Value submitCodec(const Napi::CallbackInfo& info);
  // (op, id, file, stream, slot, slotOffset, room, length, style, writable, align, idleMs) → 0 or -errno
  Napi::Value submitLane(const Napi::CallbackInfo& info);
  // (op, id, file, stream, slot, slotOffset, room, length, each, writes, idleMs, dateAt, texts) → 0 or -errno; texts are the
  // parts of the head of a request and of its reply
  Napi::Value submitHttpLane(const Napi::CallbackInfo& info);
  // The first seven of either; nullptr: there is no such slot.
  std::unique_ptr<Request> laneRequest(const Napi::CallbackInfo& info);
  // → 0 or -errno
  Napi::Value acceptLane(Napi::Env env, std::unique_ptr<Request> request, std::shared_ptr<Lane> lane);
  // (id) → [reads, readBytes, writes, writeBytes, from, to]
  Napi::Value laneCounts(const Napi::CallbackInfo& info);
  // (id)
  void callBack(const Napi::CallbackInfo& info);
  Napi::Value takeSlots(const Napi::CallbackInfo& info);
  Napi::Value takeRun(const Napi::CallbackInfo& info);
  void giveSlots(const Napi::CallbackInfo& info);
  // (group) → ArrayBuffer of the whole group, detached when the group is unmapped
  Napi::Value groupBytes(const Napi::CallbackInfo& info);
  // () → number of slots still mapped; idle groups are given back
  Napi::Value trim(const Napi::CallbackInfo& info);
  // () → [op, file, ageMs] or undefined
  Napi::Value oldest(const Napi::CallbackInfo& info);
  // () → [requests, bytes, tasks, slotsInUse, slotsMapped]
  Napi::Value stats(const Napi::CallbackInfo& info);
  // (file, directions)
  void shutStream(const Napi::CallbackInfo& info);
  void endReading(const Napi::CallbackInfo& info);
  void stop(const Napi::CallbackInfo& info);

  int accept(std::unique_ptr<Request> request);
  bool useSlot(Request& request, double slot, double slotOffset);
  bool addPieces(const Napi::Array& places, std::vector<Piece>& pieces);
  void deliver();
  void deliverSome(const std::vector<std::unique_ptr<Request>>& done, size_t from, size_t count);
  Napi::Value endLane(const Request& request);
  Napi::Value extraOf(const Request& request);
  void end();

  std::unique_ptr<SlotPool> slots_;
  std::shared_ptr<IoFront> front_;
  LoopPoll* poll_ = nullptr;  // nullptr once ended; owns itself
  std::unique_ptr<Napi::AsyncContext> context_;
  Napi::FunctionReference onFinished_;
  Napi::Reference<Napi::Float64Array> pairs_;
  std::vector<Napi::Reference<Napi::ArrayBuffer>> groupBytes_;
  std::unordered_map<double, std::shared_ptr<Lane>> lanes_;  // by the ids of their requests
};

}  // namespace blockferry
