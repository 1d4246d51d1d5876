// Python access to the quantised engine and its definition.
#include "core/quantized.h"

#include "core/status.h"
#include "cpu/quantized.h"
#include "pybind/module.h"

namespace ort_tconv {
namespace {

QuantizedType parse_type(const py::dtype& dtype, const char* what) {
  const auto text = py::cast<std::string>(dtype.attr("name"));
  for (QuantizedType t : {QuantizedType::kUint8, QuantizedType::kInt8, QuantizedType::kFloat32})
    if (text == name(t)) return t;
  fail("input ", what, " has dtype ", text, ": must be uint8 or int8, or float32 for a y_zero_point");
}

template <class T>
std::vector<T> values(const py::array& a) {
  const auto v = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(a);
  return std::vector<T>(v.data(), v.data() + v.size());
}

// One call: the inputs of the operator, in its order.
struct Call {
  py::array x, w;
  QuantizedTypes types;
  Problem problem;
  Requantization requantization;
  py::array y;

  Call(const py::array& x_in, float x_scale, const py::array& x_zero, const py::array& w_in, const py::array& w_scale,
       const py::array& w_zero, float y_scale, const py::array& y_zero, const std::optional<py::array>& b,
       const py::kwargs& kw)
      : x(py::array::ensure(x_in, py::array::c_style)), w(py::array::ensure(w_in, py::array::c_style)) {
    types = {parse_type(x.dtype(), "x"), parse_type(w.dtype(), "w"), parse_type(y_zero.dtype(), "y_zero_point")};
    InputShapes shapes{shape_of(x), shape_of(w), {}, {}};
    if (b) shapes.b = shape_of(*b);
    problem = make_problem(attributes(kw), shapes);
    Quantization q;
    q.x_scale = x_scale;
    q.y_scale = y_scale;
    q.x_zero = values<int32_t>(x_zero).at(0);
    q.y_zero = values<int32_t>(y_zero).at(0);
    q.w_scale = values<float>(w_scale);
    q.w_zero = values<int32_t>(w_zero);
    if (b && b->dtype().kind() == 'f') q.float_bias = values<float>(*b);
    else if (b) q.bias = values<int32_t>(*b);
    requantization = ort_tconv::requantization(problem, types, q);
    const Dims shape = problem.y_shape();
    y = py::array(y_zero.dtype(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
  }
};

}  // namespace

void bind_quantized(py::module_& m) {
  m.def("quantized_isas", &supported_quantized_isas, "Sets of quantised kernels that this processor has, best first.");
  m.def("compiled_quantized_isas", &compiled_quantized_isas, "All that are built in.");
  m.def("emulated_quantized_isas", &emulated_quantized_isas, "Those whose multiplication is emulated, for tests.");
  m.def("quantized_isa", [] { return std::string(quantized_kernels().name); }, "The set in use.");

  m.def(
      "run_quantized",
      [](const py::array& x, float x_scale, const py::array& x_zero, const py::array& w, const py::array& w_scale,
         const py::array& w_zero, float y_scale, const py::array& y_zero, const std::optional<py::array>& b,
         const std::string& isa, const std::string& algorithm, int threads, const py::kwargs& kw) {
        Call call(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b, kw);
        const QuantizedKernels& kernels = quantized_kernels(isa);
        const QuantizedPrepared prepared(call.problem, call.types, kernels, machine(kernels, threads), algorithm);
        const Tensors tensors{call.x.data(), call.w.data(), nullptr, nullptr, call.y.mutable_data()};
        {
          py::gil_scoped_release release;
          ThreadExecutor executor;
          if (call.y.size() > 0) prepared.run(*prepared.pack(tensors.w), call.requantization, tensors, executor);
        }
        return call.y;
      },
      py::arg("x"), py::arg("x_scale"), py::arg("x_zero_point"), py::arg("w"), py::arg("w_scale"),
      py::arg("w_zero_point"), py::arg("y_scale"), py::arg("y_zero_point"), py::arg("b") = py::none(),
      py::arg("isa") = "", py::arg("algorithm") = "", py::arg("threads") = 1,
      "The quantised engine: Y in the dtype of y_zero_point.");

  m.def(
      "quantized_reference",
      [](const py::array& x, float x_scale, const py::array& x_zero, const py::array& w, const py::array& w_scale,
         const py::array& w_zero, float y_scale, const py::array& y_zero, const std::optional<py::array>& b,
         const py::kwargs& kw) {
        Call call(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b, kw);
        void* y = call.y.mutable_data();
        {
          py::gil_scoped_release release;
          quantized_reference(call.problem, call.types, call.requantization, call.x.data(), call.w.data(), y);
        }
        return call.y;
      },
      py::arg("x"), py::arg("x_scale"), py::arg("x_zero_point"), py::arg("w"), py::arg("w_scale"),
      py::arg("w_zero_point"), py::arg("y_scale"), py::arg("y_zero_point"), py::arg("b") = py::none(),
      "The same by its definition.");

  m.def(
      "quantized_plan",
      [](const Dims& x_shape, const Dims& w_shape, const std::string& isa, const std::string& algorithm, int threads,
         const py::kwargs& kw) {
        const Problem p = make_problem(attributes(kw), {x_shape, w_shape, {}, {}});
        const QuantizedKernels& kernels = isa.empty() ? quantized_kernels() : compiled_quantized_kernels(isa);
        const QuantizedTypes types{QuantizedType::kUint8, QuantizedType::kInt8, QuantizedType::kUint8};
        py::dict plan = describe(QuantizedPrepared(p, types, kernels, machine(kernels, threads), algorithm).plan(), p);
        plan["isa"] = kernels.name;
        return plan;
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("isa") = "", py::arg("algorithm") = "", py::arg("threads") = 1,
      "Plan for the shapes, on any set of kernels that is built in, or the best of an instruction set's.");
}

}  // namespace ort_tconv
