// SPDX-License-Identifier: Apache-2.0
// The JavaScript face of the scanners: converts arguments, and keeps what they point into. JS thread only.
// native/page-scanner.ts is its only caller and checks types; ranges are checked here.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "scanner.h"

namespace blockferry {

class EngineObject;

class ScannerObject : public Napi::ObjectWrap<ScannerObject> {
 public:
  static Napi::Function define(Napi::Env env);

  // (engine, ofChannel, pageSize, blocks, gather, pieces): packets of a channel, or records; blocks are
  // [name, length, place, bitmap, digests or undefined, …]; pieces has room for two numbers for each page of a slot
  explicit ScannerObject(const Napi::CallbackInfo& info);

 private:
  bool setUp(const Napi::CallbackInfo& info, Gathering::Setup& setup, std::string& problem);
  bool addBlock(const Napi::Array& list, uint32_t at, uint32_t pageSize, std::vector<ScannedBlock>& blocks);
  void keep(const Napi::Object& object);
  Napi::Value gatherInto(const Napi::CallbackInfo& info);  // (slot) → whether there was none
  // (slot, offset, length) → bytes taken * 8 + stop; -1: no such range
  Napi::Value scan(const Napi::CallbackInfo& info);
  // (slot, offset, length, heads, from) → [bytes taken, bytes of heads taken, stop], or undefined: no such range
  Napi::Value scanApart(const Napi::CallbackInfo& info);
  Napi::Value inPlace(const Napi::CallbackInfo& info);
  Napi::Value take(const Napi::CallbackInfo& info);     // () → [number of pieces, length]
  Napi::Value delta(const Napi::CallbackInfo& info);    // () → [block, offset, bytes]
  Napi::Value problem(const Napi::CallbackInfo& info);  // () → text
  Napi::Value counts(const Napi::CallbackInfo& info);   // () → [zero, normal, delta, foundZero, walks]
  Napi::Value seen(const Napi::CallbackInfo& info);
  Napi::Value within(const Napi::CallbackInfo& info);
  Napi::Value syncs(const Napi::CallbackInfo& info);

  std::vector<Napi::ObjectReference> kept_;  // the engine, and whose memory is written
  EngineObject* engine_ = nullptr;
  std::unique_ptr<Scanner> scanner_;
};

// (engine, slot, offset, length, pageSize) → bits of the pages that are not all zero, or undefined: no such range
Napi::Value pageBits(const Napi::CallbackInfo& info);

}  // namespace blockferry
