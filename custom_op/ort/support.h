// ONNX Runtime's C API in the terms of the core: statuses as exceptions, shapes, attributes.
#pragma once

#include <onnxruntime_c_api.h>

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

// Shape that the model declares for X, -1 where it leaves a size open; empty if not even the rank is known.
Dims declared_shape(const OrtApi& api, const OrtKernelInfo* info);

// `declared` with likely sizes for what it leaves open, given the shape of W; empty if there is no telling.
Dims likely_shape(Dims declared, const Dims& w);

// Plans and packs ahead of the first run: prepare(shapes) for the likely shape of X, if there is one.  Returns whether
// that is the shape declared and prepare() did.  Errors of a guess are none: the shapes of the first run decide.
template <class Prepare>
bool prepare_likely(const Dims& declared, const Dims& w, Prepare prepare) {
  const Dims x = likely_shape(declared, w);
  if (x.empty()) return false;
  const bool known = x == declared;
  try {
    return prepare(InputShapes{x, w, {}, {}}) && known;
  } catch (const Error&) {
    if (known) throw;
    return false;
  }
}

// Runs `body` and turns whatever it throws into a status: nothing may cross the C boundary.  `where` names the
// node of the operator, or of whatever `what` names.
template <class Body>
OrtStatusPtr guarded(const OrtApi& api, const std::string& where, Body body, const char* what = kOpName) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "ort_tconv: out of memory");
  } catch (const std::exception& e) {
    try {
      return api.CreateStatus(
          ORT_INVALID_ARGUMENT,
          concat(what, where.empty() ? "" : " '", where, where.empty() ? "" : "'", ": ", e.what()).c_str());
    } catch (...) {
      return api.CreateStatus(ORT_FAIL, "ort_tconv failed, and so did describing why");
    }
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "ort_tconv: unknown exception");
  }
}

}  // namespace ort_tconv
