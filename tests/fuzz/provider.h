// Sessions with the execution provider, which is linked into the program like the operator.
#pragma once

#include <onnxruntime_c_api.h>

#include <map>
#include <string>

namespace ort_tconv::fuzz {

// Adds it to options of sessions in `env`, with the settings of its own; ends the program if it cannot be had.
void add_provider(const OrtApiBase* base, OrtEnv* env, OrtSessionOptions* options,
                  const std::map<std::string, std::string>& settings);

}  // namespace ort_tconv::fuzz
