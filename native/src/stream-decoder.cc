// SPDX-License-Identifier: Apache-2.0
// See stream-decoder.h.
#include "stream-decoder.h"

#include "libraries.h"

namespace blockferry {

namespace {

// zlib.h
constexpr int kOk = 0;
constexpr int kBufferError = -5;
constexpr int kSyncFlush = 2;
constexpr int kWindowBits = 15;  // with zlib's head and trailer
constexpr const char* kVersion = "1";

class ZlibDecoder : public StreamDecoder {
 public:
  explicit ZlibDecoder(const Zlib& library) : library_(library) {}
  ~ZlibDecoder() override {
    if (started_) library_.inflateEnd(&stream_);
  }
  bool start() {
    started_ = library_.inflateInit2(&stream_, kWindowBits, kVersion, sizeof stream_) == kOk;
    return started_;
  }

  Step step(const std::byte* from, size_t length, std::byte* into, size_t room) override {
    stream_.nextIn = from;
    stream_.availableIn = static_cast<unsigned>(length);
    stream_.nextOut = into;
    stream_.availableOut = static_cast<unsigned>(room);
    // A stream that ends is no channel's.
    const int result = library_.inflate(&stream_, kSyncFlush);
    const bool damaged = result != kOk && result != kBufferError;
    return {length - stream_.availableIn, room - stream_.availableOut, damaged};
  }

 private:
  const Zlib& library_;
  ZlibStream stream_;
  bool started_ = false;
};

class ZstdDecoder : public StreamDecoder {
 public:
  explicit ZstdDecoder(const Zstd& library)
      : library_(library), context_(library.createDecompressor(), library.freeDecompressor) {}
  bool start() const { return context_ != nullptr; }

  Step step(const std::byte* from, size_t length, std::byte* into, size_t room) override {
    ZstdIn input{from, length, 0};
    ZstdOut output{into, room, 0};
    const size_t result = library_.decompressStream(context_.get(), &output, &input);
    return {input.position, output.position, library_.isError(result) != 0};
  }

 private:
  const Zstd& library_;
  const std::unique_ptr<void, size_t (*)(void*)> context_;
};

template <typename Decoder, typename Library>
std::unique_ptr<StreamDecoder> make(const Library* library, const char* name, std::string& problem) {
  if (library == nullptr) {
    problem = std::string("this machine has no ") + name;
    return nullptr;
  }
  auto decoder = std::make_unique<Decoder>(*library);
  if (decoder->start()) return decoder;
  problem = std::string("no memory for ") + name;
  return nullptr;
}

}  // namespace

std::unique_ptr<StreamDecoder> makeZlibDecoder(std::string& problem) {
  return make<ZlibDecoder>(zlib(), "libz.so.1", problem);
}

std::unique_ptr<StreamDecoder> makeZstdDecoder(std::string& problem) {
  return make<ZstdDecoder>(zstd(), "libzstd.so.1", problem);
}

}  // namespace blockferry
