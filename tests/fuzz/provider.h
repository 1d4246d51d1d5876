// Sessions with the execution provider, which is linked into the program like the operator.
#pragma once

#include <onnxruntime_c_api.h>

namespace ort_tconv::fuzz {

// Adds it to options of sessions in `env`, with `strict` as its only option; ends the program if it cannot be had.
void add_provider(const OrtApiBase* base, OrtEnv* env, OrtSessionOptions* options, bool strict);

}  // namespace ort_tconv::fuzz
