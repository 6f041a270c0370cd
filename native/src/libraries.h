// SPDX-License-Identifier: Apache-2.0
// The compression libraries of the system, loaded when first needed. Used by Coder and StreamDecoder.
//
// Both are looked up at run time, by the names their stable interfaces have: no headers or -dev packages are needed to
// build, and a machine without one of them loses that one compression and nothing else.
// Why not the zlib inside Node, which addons may link: it finds no matches of 3 bytes, and made images 2.3 to 3.3 % larger
// from programs and libraries than QEMU, which uses the system's, makes them (in half the time; equal on text).
#pragma once

#include <cstddef>
#include <cstdint>

namespace blockferry {

// zlib's z_stream: layout unchanged since 1.0; deflateInit2_ refuses one of another size.
struct ZlibStream {
  const std::byte* nextIn = nullptr;
  unsigned availableIn = 0;
  unsigned long totalIn = 0;
  std::byte* nextOut = nullptr;
  unsigned availableOut = 0;
  unsigned long totalOut = 0;
  const char* message = nullptr;
  void* state = nullptr;
  void* (*allocate)(void*, unsigned, unsigned) = nullptr;  // nullptr: malloc
  void (*release)(void*, void*) = nullptr;
  void* opaque = nullptr;
  int dataType = 0;
  unsigned long checksum = 0;
  unsigned long reserved = 0;
};

struct Zlib {
  int (*deflateInit2)(ZlibStream*, int level, int method, int windowBits, int memLevel, int strategy,
                      const char* version, int streamSize);
  int (*deflate)(ZlibStream*, int flush);
  int (*deflateReset)(ZlibStream*);
  int (*deflateEnd)(ZlibStream*);
  int (*inflateInit2)(ZlibStream*, int windowBits, const char* version, int streamSize);
  int (*inflate)(ZlibStream*, int flush);
  int (*inflateReset)(ZlibStream*);
  int (*inflateEnd)(ZlibStream*);
};

// zstd's ZSTD_inBuffer and ZSTD_outBuffer: `position` moves.
struct ZstdIn {
  const void* data;
  size_t size;
  size_t position;
};
struct ZstdOut {
  void* data;
  size_t size;
  size_t position;
};

// Contexts are opaque. Sizes returned may be errors: isError() tells, errorCode() which.
struct Zstd {
  void* (*createCompressor)();
  size_t (*freeCompressor)(void*);
  size_t (*compress)(void* context, void* into, size_t room, const void* from, size_t length, int level);
  void* (*createDecompressor)();
  size_t (*freeDecompressor)(void*);
  size_t (*decompress)(void* context, void* into, size_t room, const void* from, size_t length);
  size_t (*decompressStream)(void* context, ZstdOut* into, ZstdIn* from);
  size_t (*findFrameSize)(const void* from, size_t length);
  unsigned (*isError)(size_t result);
  int (*errorCode)(size_t result);
};

// Any thread, no N-API: loading reads files. nullptr: the machine does not have it; then it stays absent until the next start.
// Of the process and never unloaded, as a library is; read only once it is there.
const Zlib* zlib();
const Zstd* zstd();

}  // namespace blockferry
