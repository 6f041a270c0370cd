// SPDX-License-Identifier: Apache-2.0
// See loop-call.h.
#include "loop-call.h"

namespace blockferry {

void callFromLoop(Napi::Env env, Napi::AsyncContext& context, const Napi::FunctionReference& function,
                  std::initializer_list<napi_value> arguments) {
  napi_make_callback(env, context, env.Global(), function.Value(), arguments.size(), arguments.begin(), nullptr);
  // In a worker that is being ended the exception is its end: nobody to tell.
  bool thrown = false;
  napi_value exception = nullptr;
  if (napi_is_exception_pending(env, &thrown) != napi_ok || !thrown) return;
  if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) napi_fatal_exception(env, exception);
}

}  // namespace blockferry
