// SPDX-License-Identifier: Apache-2.0
// See libraries.h.
#include "libraries.h"

#include <dlfcn.h>

namespace blockferry {

namespace {

// A library loaded here must call its own functions: Node exports zlib's names, of another version with other state.
// Sanitizers refuse that way of loading, and some C libraries do not know it; there what the process has is taken.
// @param probe  a function of the library
void* load(const char* library, [[maybe_unused]] const char* probe) {
#if defined(RTLD_DEEPBIND) && !defined(BLOCKFERRY_PLAIN_THREADS)
  return dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
#else
  return dlopen(dlsym(RTLD_DEFAULT, probe) == nullptr ? library : nullptr, RTLD_NOW | RTLD_LOCAL);
#endif
}

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

const Zlib* loadZlib() {
  static Zlib z;
  void* library = load("libz.so.1", "deflateInit2_");
  const bool whole = library != nullptr && find(library, "deflateInit2_", z.deflateInit2) &&
                     find(library, "deflate", z.deflate) && find(library, "deflateReset", z.deflateReset) &&
                     find(library, "deflateEnd", z.deflateEnd) && find(library, "inflateInit2_", z.inflateInit2) &&
                     find(library, "inflate", z.inflate) && find(library, "inflateReset", z.inflateReset) &&
                     find(library, "inflateEnd", z.inflateEnd);
  return whole ? &z : nullptr;
}

const Zstd* loadZstd() {
  static Zstd z;
  void* library = load("libzstd.so.1", "ZSTD_createCCtx");
  const bool whole =
      library != nullptr && find(library, "ZSTD_createCCtx", z.createCompressor) &&
      find(library, "ZSTD_freeCCtx", z.freeCompressor) && find(library, "ZSTD_compressCCtx", z.compress) &&
      find(library, "ZSTD_createDCtx", z.createDecompressor) && find(library, "ZSTD_freeDCtx", z.freeDecompressor) &&
      find(library, "ZSTD_decompressDCtx", z.decompress) &&
      find(library, "ZSTD_decompressStream", z.decompressStream) &&
      find(library, "ZSTD_findFrameCompressedSize", z.findFrameSize) && find(library, "ZSTD_isError", z.isError) &&
      find(library, "ZSTD_getErrorCode", z.errorCode);
  return whole ? &z : nullptr;
}

}  // namespace

const Zlib* zlib() {
  static const Zlib* const loaded = loadZlib();
  return loaded;
}

const Zstd* zstd() {
  static const Zstd* const loaded = loadZstd();
  return loaded;
}

}  // namespace blockferry
