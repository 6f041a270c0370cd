// SPDX-License-Identifier: Apache-2.0
// Calls from the event loop into JavaScript. JS thread only.
#pragma once

#include <napi.h>

#include <initializer_list>

namespace blockferry {

// What the function throws is an uncaught exception of the environment: nothing can be thrown into the loop.
void callFromLoop(Napi::Env env, Napi::AsyncContext& context, const Napi::FunctionReference& function,
                  std::initializer_list<napi_value> arguments);

}  // namespace blockferry
