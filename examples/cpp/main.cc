// Runs a converted model from C++: loads the operator library, feeds ones, prints the shape and the mean.
//
//   main converted.onnx libort_tconv.so
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <numeric>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s converted.onnx libort_tconv.so\n", argv[0]);
    return 2;
  }
  Ort::Env env;
  Ort::SessionOptions options;
  options.RegisterCustomOpsLibrary(argv[2]);
  Ort::Session session(env, argv[1], options);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input = session.GetInputNameAllocated(0, allocator);
  const auto output = session.GetOutputNameAllocated(0, allocator);
  std::vector<int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  int64_t count = 1;
  for (int64_t& side : shape) {
    if (side < 0) side = 1;  // a dimension without a size
    count *= side;
  }
  std::vector<float> x(count, 1.0f);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto value = Ort::Value::CreateTensor<float>(memory, x.data(), x.size(), shape.data(), shape.size());

  const char* inputs[] = {input.get()};
  const char* outputs[] = {output.get()};
  const auto results = session.Run(Ort::RunOptions{}, inputs, &value, 1, outputs, 1);

  const auto info = results[0].GetTensorTypeAndShapeInfo();
  for (const int64_t side : info.GetShape()) std::printf("%lld ", static_cast<long long>(side));
  const float* y = results[0].GetTensorData<float>();
  const size_t n = info.GetElementCount();
  std::printf("mean %.6f\n", std::accumulate(y, y + n, 0.0) / n);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
