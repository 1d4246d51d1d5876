// ONNX Runtime's C API in the terms of the core: statuses as exceptions, shapes, attributes.
#pragma once

#define ORT_API_MANUAL_INIT  // the API table arrives through RegisterCustomOps
#include <onnxruntime_cxx_api.h>

#include <memory>
#include <new>
#include <string>

#include "core/plan.h"
#include "core/status.h"

namespace ort_tconv {

constexpr const char* kDomain = "ort_tconv";
constexpr const char* kOpName = "SegregatedConvTranspose";

ONNXTensorElementDataType element_type(DType dtype);

// An object of ONNX Runtime's, with the function of its API that releases it.
template <class T> using Owned = std::unique_ptr<T, void (*)(T*)>;

// Releases a status and returns its message; "" for success.
std::string take_message(const OrtApi& api, OrtStatusPtr status);

// Throws Error with the message of a failure.
void check(const OrtApi& api, OrtStatusPtr status);

Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info);
std::string node_name(const OrtApi& api, const OrtKernelInfo* info);

Dims dims_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);
Dims shape_of(const OrtApi& api, const OrtValue* value);
const void* data_of(const OrtApi& api, const OrtValue* value);

// Shapes of a call's inputs, as far as the node has them: X, W, B, Z.  Throws Error without X or W.
struct Inputs {
  const OrtValue *x = nullptr, *w = nullptr, *b = nullptr, *z = nullptr;
  InputShapes shapes;
  Inputs(const OrtApi& api, const OrtKernelContext* context);
};
bool same(const InputShapes& a, const InputShapes& b);

// The shapes that X and W will have: as the model declares X, or a likely guess where it leaves sizes
// open (`guessed`).  Empty if not even the rank is known.
InputShapes declared_shapes(const OrtApi& api, const OrtKernelInfo* info, const OrtValue* w, bool& guessed);

// Runs `body` and turns whatever it throws into a status: nothing may cross the C boundary.
template <class Body>
OrtStatusPtr guarded(const OrtApi& api, const std::string& where, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "SegregatedConvTranspose: out of memory");
  } catch (const std::exception& e) {
    try {
      return api.CreateStatus(
          ORT_INVALID_ARGUMENT,
          concat(kOpName, where.empty() ? "" : " '", where, where.empty() ? "" : "'", ": ", e.what()).c_str());
    } catch (...) {
      return api.CreateStatus(ORT_FAIL, "SegregatedConvTranspose failed, and so did describing why");
    }
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "SegregatedConvTranspose: unknown exception");
  }
}

}  // namespace ort_tconv
