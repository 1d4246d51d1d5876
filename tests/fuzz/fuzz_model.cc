// Fuzz target: models whose nodes are malformed, and inputs that do not fit them, through ONNX Runtime: as nodes of
// the operators, and as ONNX's nodes with the execution provider.  Each model starts as a good one and is then damaged.
// Anything but a status is a finding: a crash, a report of a sanitizer, a leak, minutes or gigabytes.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "fuzz/allocation.h"
#include "fuzz/session.h"

extern "C" int __lsan_do_recoverable_leak_check() __attribute__((weak));

using namespace ort_tconv::fuzz;

namespace {

struct Counts {
  int64_t models = 0, created = 0, runs = 0, good_runs = 0;
  ~Counts() {
    std::fprintf(stderr, "fuzz_model: %lld models, %lld of them accepted; %lld runs, %lld of them successful\n",
                 (long long)models, (long long)created, (long long)runs, (long long)good_runs);
  }
} counts;

const int64_t kHostile[] = {
    0,         1,         2,         3,         4,         5,         8,         16,           63,
    64,        65,        255,       256,       1000,      1024,      4096,      65535,        65536,
    1 << 20,   1 << 24,   (1 << 30), INT32_MAX, 1LL << 31, 1LL << 32, 1LL << 40, 1LL << 47,    1LL << 60,
    1LL << 62, INT64_MAX, INT64_MIN, -1,        -2,        -3,        INT32_MIN, -(1LL << 32), INT64_MIN + 1};

int64_t hostile(Reader& r) {
  const int which = r.byte();
  return which < 250 ? kHostile[which % (sizeof(kHostile) / sizeof(*kHostile))] : r.word();
}

const char* const kStorages[] = {"", "float32", "float16", "bfloat16", "int8", "int4"};

Model good(Reader& r) {
  Model m;
  const int axes = 1 + r.pick(3);
  const int64_t group = 1 + r.pick(3), group_in = 1 + r.pick(5), group_out = 1 + r.pick(5);
  static const int kElements[] = {1, 11, 10, 16};
  const int element = r.one_of(kElements);
  Dims x{1 + r.pick(2), group * group_in}, w{group * group_in, group_out};
  Attribute strides, pads;
  for (int i = 0; i < axes; ++i) {
    x.push_back(1 + r.pick(axes == 1 ? 40 : 6));
    w.push_back(1 + r.pick(5));
    strides.integers.push_back(1 + r.pick(3));
  }
  m.attributes["strides"] = strides;
  m.attributes["group"].type = 2;
  m.attributes["group"].integers = {group};
  const int shape = r.byte(), constants = r.byte();
  const auto add = [&](const char* name, int type, const Dims& dims) -> Input& {
    Input input;
    input.name = name;
    input.element = type;
    input.dims = input.declared = dims;
    input.shape_known = !(shape & 1);
    if (shape & 2)
      for (auto& v : input.declared) v = -1;
    input.constant = name != std::string("x") && constants & 1;
    m.inputs.push_back(input);
    return m.inputs.back();
  };
  const Dims outputs{group * group_out}, single, each_of_group{group_out};
  const int form = constants / 2;
  const Dims& scales = form & 4 ? single : each_of_group;
  m.form = form % 4 == 2 ? Form::kQuantizedWeights : form % 4 == 3 ? Form::kQuantized : Form::kFloat;
  switch (m.form) {
    case Form::kFloat: add("x", element, x), add("w", element, w), add("b", element, outputs); break;
    case Form::kQuantizedWeights:
      add("x", 1, x), add("w", 2 + r.pick(2), w), add("b", 1, outputs), add("w_scale", 1, scales);
      break;
    case Form::kQuantized: {
      const int types = r.byte(), x_type = types & 1 ? 3 : 2, w_type = types & 2 ? 2 : 3;
      static const int kResults[] = {2, 3, 2, 1};
      const int y_type = kResults[types / 4 % 4], b_type = types & 16 ? 1 : 6;
      add("x", x_type, x), add("x_scale", 1, single).value = 1.f, add("x_zero_point", x_type, single);
      add("w", w_type, w), add("w_scale", 1, scales), add("w_zero_point", w_type, scales);
      add("y_scale", 1, single).value = y_type == 1 ? 1.f : 0.25f;
      add("y_zero_point", y_type, single).value = 0.f;
      if (types & 32) add("b", b_type, outputs);
      break;
    }
  }
  m.weights = kStorages[form / 8 % 8 % 6];
  return m;
}

void damage(Model& m, Reader& r) {
  static const char* const kNames[] = {
      "strides", "pads",       "dilations",         "output_padding", "output_shape", "kernel_shape", "auto_pad",
      "group",   "activation", "activation_params", "algorithm",      "weights",      "weight_scales"};
  static const char* const kTexts[] = {
      "",           "NOTSET",        "VALID",
      "SAME_UPPER", "SAME_LOWER",    "direct",
      "narrow",     "winograd",      "auto",
      "Relu",       "LeakyRelu",     "PRelu",
      "Clip",       "Gelu",          "Softplus",
      "float32",    "float16",       "bfloat16",
      "int8",       "no such thing", "a text of more than sixty-four bytes, which is longer than any"};
  static const float kFloats[] = {0.f, 1.f, -1.f, 6.f, 0x1p-6f, 1e-45f, 1e38f, NAN, INFINITY, -INFINITY};
  switch (r.pick(14)) {
    case 0:
    case 1:
    case 2: {  // another value, mostly of the right type
      const std::string name = r.one_of(kNames);
      Attribute& a = m.attributes[name];
      const bool is_text = name == "auto_pad" || name == "activation" || name == "algorithm" || name == "weights";
      const bool is_floats = name == "activation_params" || name == "weight_scales";
      a.type = is_text ? 3 : name == "group" ? 2 : is_floats ? 6 : 7;
      if (r.pick(12) == 0) a.type = 1 + r.pick(8);
      a.text = r.one_of(kTexts);
      a.integers.resize(r.pick(8) ? std::max<size_t>(3, m.inputs[0].dims.size()) * (name == "pads" ? 2 : 1) -
                                        (name == "pads" ? 4 : 2)
                                  : static_cast<size_t>(r.pick(12)));
      for (auto& v : a.integers) v = hostile(r);
      a.floats.resize(static_cast<size_t>(r.pick(6)));
      for (auto& v : a.floats) v = r.one_of(kFloats);
      return;
    }
    case 3: {  // one entry of a list
      for (auto& [name, a] : m.attributes)
        if (!a.integers.empty() && r.flip()) a.integers[r.byte() % a.integers.size()] = hostile(r);
      return;
    }
    case 4: m.attributes.erase(r.one_of(kNames)); return;
    case 5:
    case 6: {  // a size that is declared, of the value, or both
      Input& input = m.inputs[r.byte() % m.inputs.size()];
      const int what = r.byte();
      const int64_t v = hostile(r);
      const size_t axis = r.byte() % std::max<size_t>(1, input.dims.size());
      if (what & 1 && axis < input.declared.size()) input.declared[axis] = v;
      if (what & 2 && axis < input.dims.size()) input.dims[axis] = v;
      return;
    }
    case 7: {  // a rank
      Input& input = m.inputs[r.byte() % m.inputs.size()];
      const int what = r.byte();
      const size_t rank = r.pick(12);
      if (what & 1) input.declared.resize(rank, 1 + what / 4 % 3);
      if (what & 2) input.dims.resize(rank, 1 + what / 4 % 3);
      return;
    }
    case 8: {  // an input more: Z, and one that is too many
      Input z = m.inputs[0];
      z.name = "z" + std::to_string(m.inputs.size());
      z.constant = r.flip();
      for (auto& v : z.dims)
        if (r.flip()) v = 1 + r.pick(9);
      z.declared = z.dims;
      if (m.inputs.size() < 6) m.inputs.push_back(z);
      return;
    }
    case 9: {
      if (m.inputs.size() > 1 && r.flip()) m.inputs.pop_back();
      else m.outputs = r.pick(3);
      return;
    }
    case 10: {
      Input& input = m.inputs[r.byte() % m.inputs.size()];
      const int what = r.byte();
      if (what & 1) input.constant = !input.constant;
      if (what & 2) input.missing_bytes = r.byte();
      static const int kElements[] = {1, 11, 10, 16, 7, 2, 3, 6};
      if (what & 4) input.element = r.one_of(kElements);
      if (what & 8) input.shape_known = !input.shape_known;
      return;
    }
    case 11:
      m.nodes = 1 + r.pick(3);
      m.extra_attribute = r.flip();
      return;
    case 12: {  // weights in another form, with scales that may belong to it
      Attribute weights, scales;
      weights.type = 3;
      weights.text = r.one_of(kStorages);
      m.attributes["weights"] = weights;
      const int count = r.pick(18);
      scales.type = 6;
      scales.floats.resize(static_cast<size_t>(count), 0x1p-6f);
      if (count > 0 && r.flip()) scales.floats[r.byte() % scales.floats.size()] = r.one_of(kFloats);
      if (count > 0) m.attributes["weight_scales"] = scales;
      m.weights = weights.text;
      return;
    }
    case 13: m.inputs[r.byte() % m.inputs.size()].value = r.one_of(kFloats); return;
  }
}

void dump(const std::string& bytes) {
  const char* const path = std::getenv("FUZZ_MODEL_DUMP");
  std::FILE* const f = path ? std::fopen(path, "wb") : nullptr;
  if (f) std::fwrite(bytes.data(), 1, bytes.size(), f), std::fclose(f);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader r(data, size);
  Model m = good(r);
  const int damages = r.pick(5);
  for (int i = 0; i < damages; ++i) damage(m, r);
  ++counts.models;
  for (const bool provider : kWays) {
    if (m.form == Form::kQuantizedWeights && !provider) continue;  // no operator has such inputs
    m.onnx = provider;
    const std::string bytes = serialized(m);
    dump(bytes);
    try {
      Ort::Session session(environment(), bytes.data(), bytes.size(), options(provider, m.weights));
      ++counts.created;
      for (int i = 0; i < 2; ++i) {  // an error leaves the session as it was
        ++counts.runs;
        counts.good_runs += !run(session, m).empty();
      }
    } catch (const Ort::Exception&) {
    }
  }
  // Too slow to be made for each model.
  if (counts.models % 1000 == 0 && __lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check()) std::abort();
  return 0;
}
