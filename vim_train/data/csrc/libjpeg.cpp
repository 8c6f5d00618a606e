// Finding libjpeg's functions at run time, in the very library that Pillow decodes with.
#include "libjpeg.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "jpeg.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace vtp {
namespace {

jpeg::Functions functions;
bool opened = false;

void say(char* reason, int32_t size, const char* text) { snprintf(reason, size, "%s", text); }

#if !defined(_WIN32)
struct Question : jpeg::ErrorManager {
  char reserve[256];  // a newer library's manager may be longer than ours
  jmp_buf back;
};

void answer(jpeg::Decompressor* decompressor) { longjmp(static_cast<Question*>(decompressor->errors)->back, 1); }

void be_silent(jpeg::Decompressor*) {}

// A decompressor of the wrong version or size is refused with the right one in the message's first parameter.
int ask(const jpeg::Functions& of, int version, size_t size) {
  alignas(16) char memory[jpeg::kLargestDecompressor] = {};
  auto* decompressor = reinterpret_cast<jpeg::Decompressor*>(memory);
  Question question;
  memset(&question, 0, sizeof question);
  decompressor->errors = of.std_error(&question);
  question.error_exit = answer;
  question.output_message = be_silent;
  if (setjmp(question.back) == 0) {
    of.create(decompressor, version, size);
    of.destroy(decompressor);
    return 0;
  }
  return question.parameter.number[0];
}
#endif

}  // namespace

const jpeg::Functions* libjpeg() { return opened ? &functions : nullptr; }

int32_t open_libjpeg(const char* path, char* reason, int32_t size) {
#if defined(_WIN32)
  (void)path;
  say(reason, size, "not on Windows");
  return 0;
#else
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    say(reason, size, dlerror());
    return 0;
  }
  jpeg::Functions found = {};
  struct {
    const char* name;
    void* slot;
  } const wanted[] = {
      {"jpeg_std_error", &found.std_error},
      {"jpeg_CreateDecompress", &found.create},
      {"jpeg_abort_decompress", &found.abort},
      {"jpeg_destroy_decompress", &found.destroy},
      {"jpeg_read_header", &found.read_header},
      {"jpeg_start_decompress", &found.start},
      {"jpeg_read_scanlines", &found.read_rows},
      {"jpeg_skip_scanlines", &found.skip_rows},
      {"jpeg_crop_scanline", &found.crop},
      {"jpeg_has_multiple_scans", &found.several_scans},
      {"jpeg_resync_to_restart", &found.resync},
  };
  for (const auto& function : wanted) {
    void* address = dlsym(library, function.name);
    if (!address) {
      snprintf(reason, size, "it has no %s, so it is not libjpeg-turbo", function.name);
      dlclose(library);
      return 0;
    }
    memcpy(function.slot, &address, sizeof address);
  }
  found.version = ask(found, 0, 0);
  found.size = static_cast<size_t>(ask(found, found.version, 0));
  bool known = found.version == 62 || found.version == 80;
  if (!known || found.size < sizeof(jpeg::Decompressor) || found.size > jpeg::kLargestDecompressor ||
      ask(found, found.version, found.size) != 0) {
    snprintf(reason, size, "its interface, version %d of %zu bytes, is not one that we know", found.version, found.size);
    dlclose(library);
    return 0;
  }
  functions = found;
  opened = true;
  return found.version;
#endif
}

}  // namespace vtp
