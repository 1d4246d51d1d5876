// Runs a model from C++: loads the library, feeds ones to every input, prints each output's name, shape and mean.
//
//   main converted.onnx [libort_tconv.so]             by default the library that lies beside the program
//   main --provider model.onnx [libort_tconv.so]      a model as it is, with the execution provider
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

// ONNX Runtime hands the path to dlopen, which looks for a bare name in the system's folders alone.
std::string beside_program(const char* name) {
  return std::filesystem::read_symlink("/proc/self/exe").replace_filename(name).string();
}

// Float inputs of ones; a dimension without a size becomes 1.
Ort::Value ones(const Ort::Session& session, size_t index, const std::string& name) {
  const Ort::TypeInfo type = session.GetInputTypeInfo(index);
  const auto info = type.GetTensorTypeAndShapeInfo();
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    throw std::runtime_error("input '" + name + "' is not float32, which is all that this program feeds");
  std::vector<int64_t> shape = info.GetShape();
  for (int64_t& side : shape)
    if (side < 0) side = 1;
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::Value value = Ort::Value::CreateTensor<float>(allocator, shape.data(), shape.size());
  const size_t count = value.GetTensorTypeAndShapeInfo().GetElementCount();
  std::fill_n(value.GetTensorMutableData<float>(), count, 1.0f);
  return value;
}

// The session's creation is an error if the provider takes no node of the model.
void add_provider([[maybe_unused]] Ort::Env& env, [[maybe_unused]] Ort::SessionOptions& options,
                  [[maybe_unused]] const std::string& library) {
#if ORT_API_VERSION >= 23
  env.RegisterExecutionProviderLibrary("TConvExecutionProvider", library);
  std::vector<Ort::ConstEpDevice> devices;
  for (const Ort::ConstEpDevice& device : env.GetEpDevices())
    if (std::string(device.EpName()) == "TConvExecutionProvider") devices.push_back(device);
  const std::unordered_map<std::string, std::string> settings{{"strict", "1"}};
  options.AppendExecutionProvider_V2(env, devices, settings);
#else
  throw std::runtime_error("this program was built with the headers of an ONNX Runtime before 1.23");
#endif
}

}  // namespace

int main(int argc, char** argv) try {
  const bool provider = argc > 1 && std::string(argv[1]) == "--provider";
  if (provider) {
    --argc;
    ++argv;
  }
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: main [--provider] model.onnx [libort_tconv.so]\n");
    return 2;
  }
  const std::string library = argc == 3 ? argv[2] : beside_program("libort_tconv.so");
  Ort::Env env;
  Ort::SessionOptions options;
  if (provider) add_provider(env, options, library);
  else options.RegisterCustomOpsLibrary(library.c_str());
  Ort::Session session(env, argv[1], options);

  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;  // the inputs', then the outputs'
  std::vector<Ort::Value> inputs;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    inputs.push_back(ones(session, i, names.back()));
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i)
    names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());

  std::vector<const char*> pointers;
  for (const std::string& name : names) pointers.push_back(name.c_str());
  const char** output_names = pointers.data() + inputs.size();
  const std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{}, pointers.data(), inputs.data(), inputs.size(),
                                                      output_names, session.GetOutputCount());

  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto info = outputs[i].GetTensorTypeAndShapeInfo();
    std::printf("%s", output_names[i]);
    for (const int64_t side : info.GetShape()) std::printf(" %lld", static_cast<long long>(side));
    if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
      const float* y = outputs[i].GetTensorData<float>();
      const size_t n = info.GetElementCount();
      std::printf(" mean %.6f", std::accumulate(y, y + n, 0.0) / static_cast<double>(n));
    }
    std::printf("\n");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
