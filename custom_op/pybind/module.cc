// Python access to the kernel core, without ONNX Runtime: for tests, tools and `inspect`.
#include "pybind/module.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>

#include "core/candidates.h"
#include "core/cost.h"
#include "core/gain.h"
#include "core/geometry.h"
#include "core/integers.h"
#include "core/plan.h"
#include "core/reference.h"
#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/run.h"
#include "cpu/weight_cache.h"

#ifndef ORT_TCONV_VERSION
#define ORT_TCONV_VERSION "0+unknown"
#endif

using namespace py::literals;

namespace ort_tconv {
namespace {

// As ThreadExecutor, but its threads wait for work in a loop, as those of a session that runs do.
class SpinningExecutor final : public Executor {
 public:
  explicit SpinningExecutor(int threads) {
    sched_getaffinity(0, sizeof(before_), &before_);
    std::vector<int> processors;
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &before_)) processors.push_back(i);
    // Two that wait on one processor would wait for each other's turn to end.
    const auto pin = [processors](size_t i) {
      if (i >= processors.size()) return;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(processors[i], &one);
      sched_setaffinity(0, sizeof(one), &one);
    };
    for (int i = 1; i < threads; ++i)
      threads_.emplace_back([this, pin, i] {
        pin(static_cast<size_t>(i));
        work(i);
      });
    pin(0);
  }
  ~SpinningExecutor() override {
    fn_ = nullptr;
    ++round_;
    for (auto& t : threads_) t.join();
    sched_setaffinity(0, sizeof(before_), &before_);
    for (const auto& [bytes, p] : free_) std::free(p);
  }
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    n_ = n;
    fn_ = &fn;
    running_ = static_cast<int>(threads_.size());
    ++round_;
    fn(0);
    while (running_ > 0) {
    }
  }
  // Keeps what is released: fresh memory would cost the time of its pages.
  void* allocate(size_t bytes) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if (it->first >= bytes) {
        const auto found = *it;
        free_.erase(it);
        used_.push_back(found);
        return found.second;
      }
    void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) throw std::bad_alloc();
    used_.emplace_back(bytes, p);
    return p;
  }
  void release(void* p) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = std::find_if(used_.begin(), used_.end(), [p](const auto& block) { return block.second == p; });
    free_.push_back(*it);
    used_.erase(it);
  }

 private:
  void work(int64_t index) {
    for (int seen = 0;;) {
      while (round_ == seen) {
      }
      ++seen;
      if (!fn_) return;
      if (index < n_) (*fn_)(index);
      --running_;
    }
  }
  cpu_set_t before_;
  std::atomic<int> round_{0}, running_{0};
  std::atomic<int64_t> n_{0};
  std::atomic<const std::function<void(int64_t)>*> fn_{nullptr};
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::vector<std::pair<size_t, void*>> free_, used_;
};

DType parse_dtype(const std::string& text) {
  for (DType t : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
    if (text == name(t)) return t;
  fail("dtype '", text, "': must be float32, float64, float16 or bfloat16");
}

using Array64 = py::array_t<double, py::array::c_style | py::array::forcecast>;

// A machine of the instruction set named; `changes` overrides what one core of this machine can use.
Machine parse_machine(const std::string& isa, int threads, const py::dict& changes) {
  Resources r = conclude(ask());
  for (const auto& [key, value] : changes) {
    const auto k = py::cast<std::string>(key);
    const auto v = py::cast<int64_t>(value);
    require(v >= (k == "l3_bytes" ? 0 : 1), "machine: ", k, " = ", v, ": must be positive");
    if (k == "threads") r.threads = static_cast<int>(v);
    else if (k == "l2_bytes") r.l2_bytes = v;
    else if (k == "l3_bytes") r.l3_bytes = v;
    else if (k == "l3_sharers") r.l3_sharers = v;
    else fail("machine: '", k, "' is none of threads, l2_bytes, l3_bytes, l3_sharers");
  }
  if (threads > 0) r.threads = threads;
  return machine(isa.empty() ? kernel_set() : compiled_kernel_set(isa), r);
}

py::dict describe(const Resources& r) {
  py::dict d;
  d["threads"] = r.threads;
  d["l2_bytes"] = r.l2_bytes;
  d["l3_bytes"] = r.l3_bytes;
  d["l3_sharers"] = r.l3_sharers;
  return d;
}

constexpr const char* kCacheFiles[] = {"level", "type", "size", "shared_cpu_list"};

py::dict describe(const Answers& a) {
  py::list sysfs;
  for (const auto& files : a.sysfs) {
    py::list caches;
    for (const CacheFiles& f : files) {
      py::dict d;
      const std::string* texts[] = {&f.level, &f.type, &f.size, &f.shared_cpu_list};
      for (int i = 0; i < 4; ++i) d[kCacheFiles[i]] = *texts[i];
      caches.append(d);
    }
    sysfs.append(caches);
  }
  py::dict d;
  d["cpuid_caches"] = a.cpuid_caches;
  d["hybrid"] = a.hybrid;
  d["bare"] = a.bare;
  d["sysfs"] = sysfs;
  d["processors"] = a.processors;
  d["cpu_max"] = a.cpu_max;
  d["cfs"] = a.cfs;
  d["most_threads"] = a.most_threads;
  return d;
}

Answers parse_answers(const py::dict& answers) {
  Answers a;
  for (const auto& [key, value] : answers) {
    const auto k = py::cast<std::string>(key);
    if (k == "cpuid_caches") a.cpuid_caches = py::cast<decltype(a.cpuid_caches)>(value);
    else if (k == "hybrid") a.hybrid = py::cast<bool>(value);
    else if (k == "bare") a.bare = py::cast<bool>(value);
    else if (k == "processors") a.processors = py::cast<int>(value);
    else if (k == "cpu_max") a.cpu_max = py::cast<decltype(a.cpu_max)>(value);
    else if (k == "cfs") a.cfs = py::cast<decltype(a.cfs)>(value);
    else if (k == "most_threads") a.most_threads = py::cast<std::string>(value);
    else if (k == "sysfs") {
      for (const auto& files : py::cast<std::vector<std::vector<py::dict>>>(value)) {
        a.sysfs.emplace_back();
        for (const py::dict& d : files) {
          std::string texts[4];
          for (int i = 0; i < 4; ++i)
            if (d.contains(kCacheFiles[i])) texts[i] = py::cast<std::string>(d[kCacheFiles[i]]);
          a.sysfs.back().push_back({texts[0], texts[1], texts[2], texts[3]});
        }
      }
    } else throw py::type_error("unknown answer '" + k + "'");
  }
  return a;
}

py::dict describe(const AxisGeometry& g) {
  py::list classes;
  for (const auto& c : g.classes) {
    py::list taps;
    for (const auto& t : c.taps) taps.append(py::make_tuple(t.index, t.offset));
    py::dict d;
    d["residue"] = c.residue;
    d["count"] = c.count;
    d["shift"] = c.shift;
    d["taps"] = taps;
    classes.append(d);
  }
  py::dict d;
  d["stride"] = g.stride;
  d["out"] = g.out;
  d["domain"] = g.domain;
  d["origin"] = g.origin;
  d["aligned"] = g.aligned;
  d["offsets"] = g.offsets;
  d["classes"] = classes;
  return d;
}

}  // namespace

Attributes attributes(const py::kwargs& kw) {
  Attributes a;
  for (const auto& [key, value] : kw) {
    const auto k = py::cast<std::string>(key);
    if (value.is_none()) continue;
    if (k == "strides") a.strides = py::cast<Dims>(value);
    else if (k == "pads") a.pads = py::cast<Dims>(value);
    else if (k == "dilations") a.dilations = py::cast<Dims>(value);
    else if (k == "output_padding") a.output_padding = py::cast<Dims>(value);
    else if (k == "output_shape") a.output_shape = py::cast<Dims>(value);
    else if (k == "kernel_shape") a.kernel_shape = py::cast<Dims>(value);
    else if (k == "auto_pad") a.auto_pad = py::cast<std::string>(value);
    else if (k == "group") a.group = py::cast<int64_t>(value);
    else if (k == "allow_tf32") a.allow_tf32 = py::cast<int64_t>(value);
    else if (k == "weights") a.weights = py::cast<std::string>(value);
    else if (k == "weight_scales") a.weight_scales = py::cast<std::vector<float>>(value);
    else if (k == "activation") a.activation = py::cast<std::string>(value);
    else if (k == "activation_params") a.activation_params = py::cast<std::vector<float>>(value);
    else throw py::type_error("unknown attribute '" + k + "'");
  }
  return a;
}

py::dict describe(const Plan& p, const Problem& problem) {
  py::dict d;
  d["algorithm"] = name(p.algorithm);
  d["kind"] = p.kind();
  d["aligned"] = p.aligned;
  std::vector<int> transform;
  for (Transform t : p.transform) transform.push_back(static_cast<int>(t));
  d["transform"] = transform;
  d["tile"] = p.tile;
  d["tiles"] = p.tiles;
  d["block"] = p.block;
  d["blocks"] = p.blocks;
  d["blocks_per_task"] = p.blocks_per_task;
  d["channel_chunk"] = p.channel_chunk;
  d["tasks"] = p.tasks;
  d["cost"] = p.cost;
  d["macs"] = static_cast<double>(problem.batch) * direct_macs(problem);
  d["executed_macs"] = p.macs;
  d["scratch_bytes"] = p.scratch_bytes;
  d["packed_bytes"] = p.packed_bytes;
  d["reason"] = p.reason;
  d["text"] = p.describe();
  d["work"] = py::dict("multiply_adds"_a = p.work.multiply_adds, "stalls"_a = p.work.stalls, "loads"_a = p.work.loads,
                       "sums"_a = p.work.sums, "copies"_a = p.work.copies, "stores"_a = p.work.stores,
                       "tasks"_a = p.work.tasks, "imbalance"_a = p.work.imbalance, "tile_bytes"_a = p.work.tile_bytes,
                       "weight_bytes"_a = p.work.weight_bytes);
  return d;
}

namespace {

std::vector<Plan> costed_candidates(const Problem& problem, DType dtype, const Machine& machine) {
  std::vector<Plan> plans = candidates(normal_form(problem), dtype, machine);
  for (Plan& plan : plans) plan.cost = cost(plan, machine);
  return plans;
}

// For one thread and weights of this shape and type.
Prepared prepared_for(const Dims& x_shape, const py::array& w, const std::string& isa, const std::string& algorithm,
                      const py::kwargs& kw) {
  const KernelSet& kernels = kernel_set(isa);
  return Prepared(make_problem(attributes(kw), {x_shape, shape_of(w), {}, {}}),
                  parse_dtype(py::cast<std::string>(w.dtype().attr("name"))), kernels, machine(kernels, 1), algorithm);
}

// Costs of one problem's candidates by other constants than those in use, for fitting them.
class CandidateCosts {
 public:
  CandidateCosts(const Dims& x_shape, const Dims& w_shape, const std::string& isa, int threads, const py::dict& machine,
                 const py::kwargs& kw)
      : machine_(parse_machine(isa, threads, machine)),
        plans_(candidates(normal_form(make_problem(attributes(kw), {x_shape, w_shape, {}, {}})), DType::kFloat32,
                          machine_)) {}

  std::vector<double> costs(const py::dict& constants) const {
    CostConstants k = cost_constants(machine_.isa);
    for (const auto& [name, member] : constant_names())
      if (constants.contains(name)) k.*member = py::cast<double>(constants[name]);
    std::vector<double> all;
    for (const Plan& plan : plans_) all.push_back(cost(plan, machine_, k));
    return all;
  }

 private:
  Machine machine_;
  std::vector<Plan> plans_;
};

// Times candidates of one problem, for the recordings that costs are fitted to.  Numbers are random, and so are
// the weights: any part of the arena serves as those of any candidate.
class CandidateTimer {
 public:
  CandidateTimer(const Dims& x_shape, const Dims& w_shape, std::shared_ptr<AlignedBuffer> arena, const std::string& isa,
                 int threads, const py::dict& machine, const py::kwargs& kw)
      : problem_(make_problem(attributes(kw), {x_shape, w_shape, {}, {}})), arena_(std::move(arena)),
        x_(sizeof(float) * static_cast<size_t>(problem_.batch * problem_.channels * product(problem_.in))),
        y_(sizeof(float) * static_cast<size_t>(product(problem_.y_shape()))) {
    const Machine m = parse_machine(isa, threads, machine);
    threads_ = m.threads;
    const KernelSet& kernels = kernel_set(m.isa);
    for (const Plan& plan : costed_candidates(problem_, DType::kFloat32, m))
      candidates_.emplace_back(problem_, DType::kFloat32, kernels, plan, threads_);
    fill(x_);
  }

  py::list candidates() const {
    py::list all;
    for (const Prepared& c : candidates_) all.append(describe(c.plan(), problem_));
    return all;
  }

  // Seconds of each of `calls` calls, after one that is not counted.  Cold weights are others in each call.
  std::vector<double> time(size_t index, bool cold, int calls) {
    require(index < candidates_.size(), "candidate ", index, ": there are ", candidates_.size());
    py::gil_scoped_release release;
    const Prepared& prepared = candidates_[index];
    const size_t bytes = static_cast<size_t>(prepared.plan().packed_bytes);
    require(bytes <= arena_->bytes, "arena of ", arena_->bytes, " bytes: weights take ", bytes);
    PackedWeights weights(prepared.layout(), 0);
    const auto place = [&] {
      if (at_ + bytes > arena_->bytes) at_ = 0;
      weights.buffer.data =
          decltype(weights.buffer.data)(static_cast<char*>(arena_->data.get()) + at_, [](void*) noexcept {});
      weights.buffer.bytes = bytes;
      at_ += (bytes + 4095) / 4096 * 4096;
    };
    const Tensors tensors{x_.data.get(), nullptr, nullptr, nullptr, y_.data.get()};
    SpinningExecutor executor(threads_);
    std::vector<double> seconds;
    place();
    for (int i = 0; i <= calls; ++i) {
      if (cold) place();
      const auto start = std::chrono::steady_clock::now();
      prepared.run(weights, tensors, executor);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (i > 0) seconds.push_back(took.count());
    }
    return seconds;
  }

  static void fill(const AlignedBuffer& buffer) {
    std::minstd_rand random(1);
    float* v = static_cast<float*>(buffer.data.get());
    for (size_t i = 0; i < buffer.bytes / sizeof(float); ++i) v[i] = static_cast<float>(random()) * 0x1p-31f - 0.5f;
  }

 private:
  Problem problem_;
  std::shared_ptr<AlignedBuffer> arena_;
  AlignedBuffer x_, y_;
  int threads_ = 1;
  std::vector<Prepared> candidates_;
  static inline size_t at_ = 0;  // in the arena; all timers walk it, so that none finds what another left in a cache
};

}  // namespace
}  // namespace ort_tconv

using namespace ort_tconv;

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernel core of ort_tconv: geometry, plan, reference and engine";
  py::register_exception<Error>(m, "Error", PyExc_ValueError);
  m.attr("version") = ORT_TCONV_VERSION;
#ifdef ORT_TCONV_CUDA
  m.attr("built_with_cuda") = true;
#else
  m.attr("built_with_cuda") = false;
#endif
#ifdef ORT_TCONV_PROVIDER
  m.attr("built_with_provider") = true;
#else
  m.attr("built_with_provider") = false;
#endif
  m.def("isa", [] { return std::string(kernel_set().name); }, "Instruction set in use.");
  m.def("compiled_isas", &compiled_isas, "Instruction sets built in, best first.");
  m.def("supported_isas", &supported_isas, "Those of them this processor has, best first.");

  m.def("emulated_isas", &emulated_isas, "Other kernel shapes this processor can run, for tests.");
  m.def(
      "algorithms",
      [] {
        std::vector<std::string> names;
        for (Algorithm a : kAlgorithms) names.push_back(name(a));
        return names;
      },
      "Values of the attribute algorithm, besides auto.");

  m.def(
      "machine",
      [](const std::optional<py::dict>& answers) {
        return describe(conclude(answers ? parse_answers(*answers) : ask()));
      },
      py::arg("answers") = py::none(), "What one core can use of this machine, or of one that gives these answers.");
  m.def("machine_answers", [] { return describe(ask()); }, "What processor and operating system say of themselves.");

  m.def(
      "output_shape",
      [](const Dims& x_shape, const Dims& w_shape, const std::optional<Dims>& b_shape, const py::kwargs& kw) {
        const Problem p = make_problem(attributes(kw), {x_shape, w_shape, b_shape, {}});
        Dims pads = p.pad_begin;
        pads.insert(pads.end(), p.pad_end.begin(), p.pad_end.end());
        return py::make_tuple(p.y_shape(), pads);
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("b_shape") = py::none(), "Shape of Y and the pads in effect.");

  m.def(
      "residue_classes",
      [](const Dims& x_shape, const Dims& w_shape, bool aligned, const py::kwargs& kw) {
        py::list axes;
        for (const auto& g : segregate(make_problem(attributes(kw), {x_shape, w_shape, {}, {}}), aligned))
          axes.append(describe(g));
        return axes;
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("aligned") = false, "Residue classes, an entry a spatial axis.");

  m.def(
      "plan",
      [](const Dims& x_shape, const Dims& w_shape, const std::string& dtype, const std::string& isa,
         const std::string& algorithm, int threads, const py::dict& machine, bool constant_weights,
         const py::kwargs& kw) {
        Problem p = make_problem(attributes(kw), {x_shape, w_shape, {}, {}});
        p.constant_weights = constant_weights;
        const Machine m = parse_machine(isa, threads, machine);
        // Scratch and packed bytes come from the engine, which lays out the buffers.
        return describe(Prepared(p, parse_dtype(dtype), compiled_kernel_set(m.isa), m, algorithm).plan(), p);
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("dtype") = "float32", py::arg("isa") = "",
      py::arg("algorithm") = "", py::arg("threads") = 1, py::arg("machine") = py::dict(),
      py::arg("constant_weights") = true, "Plan for the shapes, on any instruction set that is built in.");

  m.def(
      "candidates",
      [](const Dims& x_shape, const Dims& w_shape, const std::string& dtype, const std::string& isa, int threads,
         const py::dict& machine, const py::kwargs& kw) {
        const Problem p = make_problem(attributes(kw), {x_shape, w_shape, {}, {}});
        py::list all;
        for (const Plan& plan : costed_candidates(p, parse_dtype(dtype), parse_machine(isa, threads, machine)))
          all.append(describe(plan, p));
        return all;
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("dtype") = "float32", py::arg("isa") = "", py::arg("threads") = 1,
      py::arg("machine") = py::dict(), "The plans that suit a session of so many threads.");

  m.def(
      "session_candidates",
      [](const Dims& x_shape, const Dims& w_shape, const std::string& isa, int threads, const py::dict& machine,
         const py::kwargs& kw) {
        const Problem p = normal_form(make_problem(attributes(kw), {x_shape, w_shape, {}, {}}));
        const Machine m = parse_machine(isa, threads, machine);
        py::list all;
        for (Plan& plan : session_candidates(p, DType::kFloat32, m)) {
          plan.cost = session_cost(plan, p, m);
          py::dict costs;
          for (int size : session_sizes(m.threads)) costs[py::int_(size)] = cost_with(size, plan, p, m);
          py::dict d = describe(plan, p);
          d["costs"] = costs;
          all.append(d);
        }
        return all;
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("isa") = "", py::arg("threads") = 1,
      py::arg("machine") = py::dict(), "The plans among which plan() chooses.");

  py::class_<CandidateCosts>(m, "CandidateCosts")
      .def(py::init<const Dims&, const Dims&, const std::string&, int, const py::dict&, const py::kwargs&>(),
           py::arg("x_shape"), py::arg("w_shape"), py::arg("isa") = "", py::arg("threads") = 1,
           py::arg("machine") = py::dict())
      .def("__call__", &CandidateCosts::costs, py::arg("constants"));
  m.def(
      "cost_constants",
      [](const std::string& isa) {
        const CostConstants k = cost_constants(isa);
        py::dict d;
        for (const auto& [name, member] : constant_names()) d[name] = k.*member;
        return d;
      },
      py::arg("isa"));

  py::class_<AlignedBuffer, std::shared_ptr<AlignedBuffer>>(m, "WeightArena")
      .def(py::init([](size_t bytes) {
             auto arena = std::make_shared<AlignedBuffer>(bytes);
             CandidateTimer::fill(*arena);
             return arena;
           }),
           py::arg("bytes"));
  py::class_<CandidateTimer>(m, "CandidateTimer")
      .def(py::init<const Dims&, const Dims&, std::shared_ptr<AlignedBuffer>, const std::string&, int, const py::dict&,
                    const py::kwargs&>(),
           py::arg("x_shape"), py::arg("w_shape"), py::arg("arena"), py::arg("isa") = "", py::arg("threads") = 1,
           py::arg("machine") = py::dict())
      .def_property_readonly("candidates", &CandidateTimer::candidates)
      .def("time", &CandidateTimer::time, py::arg("index"), py::arg("cold"), py::arg("calls"));

  m.def(
      "moving_cost",
      [](double elements, const std::string& dtype, bool shuffled) {
        return moving_cost(elements, parse_dtype(dtype), shuffled);
      },
      py::arg("elements"), py::arg("dtype"), py::arg("shuffled") = false,
      "Cost of reading or writing so many values, in order or not, in the plan's unit.");
  m.def(
      "least_conv_cost",
      [](const Dims& x_shape, const Dims& w_shape, const std::string& dtype, bool columns, const py::kwargs& kw) {
        const Problem p = make_problem(attributes(kw), {x_shape, w_shape, {}, {}});
        const DType type = parse_dtype(dtype);
        const Machine m = parse_machine("", 1, py::dict());
        const Prepared direct(p, type, compiled_kernel_set(m.isa), m, name(Algorithm::kDirect));
        return least_conv_cost(p, direct.plan(), type, columns);
      },
      py::arg("x_shape"), py::arg("w_shape"), py::arg("dtype"), py::arg("columns"),
      "Cost of what no direct Conv can do without, given as a transposed one of stride 1, in the plan's unit.");
  m.def("relayout_cost", &relayout_cost, py::arg("elements"),
        "Cost of copying so many values of float32 between ONNX Runtime's blocked layout and the plain one.");
  m.attr("SURE_SHARE") = kSureShare;
  m.attr("LARGE_TILES") = static_cast<int>(Transform::kLarge);
  m.def("nominal_side", &nominal_side, py::arg("axes"), "Side of an image that is assumed where it is not known.");

  m.def(
      "reference",
      [](const Array64& x, const Array64& w, const std::optional<Array64>& b, const std::optional<Array64>& z,
         const py::kwargs& kw) {
        InputShapes shapes{shape_of(x), shape_of(w), {}, {}};
        if (b) shapes.b = shape_of(*b);
        if (z) shapes.z = shape_of(*z);
        const Problem p = make_problem(attributes(kw), shapes);
        std::vector<double> y;
        {
          py::gil_scoped_release release;
          y = reference(p, x.data(), w.data(), b ? b->data() : nullptr, z ? z->data() : nullptr);
        }
        const Dims shape = p.y_shape();
        Array64 out(std::vector<py::ssize_t>(shape.begin(), shape.end()));
        std::copy(y.begin(), y.end(), out.mutable_data());
        return out;
      },
      py::arg("x"), py::arg("w"), py::arg("b") = py::none(), py::arg("z") = py::none(),
      "Transposed convolution by its definition, in float64.");

  m.def(
      "run",
      [](const py::array& x, const py::array& w, const std::optional<py::array>& b, const std::optional<py::array>& z,
         const std::string& isa, const std::string& algorithm, int threads, const std::optional<std::string>& dtype,
         const std::optional<size_t>& candidate, bool constant_weights, const py::kwargs& kw) {
        // bfloat16 arrays arrive as ml_dtypes' type, or as uint16 with dtype="bfloat16".
        const std::string array_type = py::cast<std::string>(x.dtype().attr("name"));
        const DType t = parse_dtype(dtype ? *dtype : array_type);
        const auto contiguous = [&](const char* what, const py::array& a) {
          if (a.itemsize() != storage_bytes(t) || py::cast<std::string>(a.dtype().attr("name")) != array_type)
            fail("input ", what, " has dtype ", py::cast<std::string>(py::str(a.dtype())), ": must be that of X, ",
                 array_type);
          return py::array::ensure(a, py::array::c_style);
        };
        const py::array xc = contiguous("X", x), wc = contiguous("W", w);
        const py::array bc = b ? contiguous("B", *b) : py::array(), zc = z ? contiguous("Z", *z) : py::array();
        InputShapes shapes{shape_of(xc), shape_of(wc), {}, {}};
        if (b) shapes.b = shape_of(bc);
        if (z) shapes.z = shape_of(zc);
        Problem p = make_problem(attributes(kw), shapes);
        p.constant_weights = constant_weights;
        const KernelSet& kernels = kernel_set(isa);
        const Machine m = machine(kernels, threads);
        const auto prepare = [&] {
          if (!candidate) return Prepared(p, t, kernels, m, algorithm);
          const std::vector<Plan> plans = costed_candidates(p, t, m);
          require(*candidate < plans.size(), "candidate = ", *candidate, ": there are ", plans.size());
          return Prepared(p, t, kernels, plans[*candidate], m.threads);
        };
        const Prepared prepared = prepare();
        const Dims shape = p.y_shape();
        py::array y(x.dtype(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
        Tensors tensors{xc.data(), wc.data(), b ? bc.data() : nullptr, z ? zc.data() : nullptr, y.mutable_data()};
        const size_t w_bytes = static_cast<size_t>(wc.nbytes());  // asks Python
        {
          py::gil_scoped_release release;
          ThreadExecutor executor;
          if (y.size() > 0 && constant_weights) {
            const auto packed = prepared.pack(tensors.w);
            // As a session may have given them up then; bytes of ones are NaN.
            std::vector<unsigned char> given_up;
            if (!prepared.reads_original(*packed)) {
              given_up.assign(w_bytes, 0xff);
              tensors.w = given_up.data();
            }
            prepared.run(*packed, tensors, executor);
          } else if (y.size() > 0) {
            prepared.run(tensors, executor);
          }
        }
        return y;
      },
      py::arg("x"), py::arg("w"), py::arg("b") = py::none(), py::arg("z") = py::none(), py::arg("isa") = "",
      py::arg("algorithm") = "", py::arg("threads") = 1, py::arg("dtype") = py::none(),
      py::arg("candidate") = py::none(), py::arg("constant_weights") = true, "The engine itself: Y in the dtype of X.");

  py::class_<PackedWeights, std::shared_ptr<PackedWeights>>(m, "PackedWeights")
      .def_property_readonly("nbytes", [](const PackedWeights& p) { return p.buffer.bytes; });

  m.def(
      "pack",
      [](const Dims& x_shape, const py::array& w, const std::string& isa, const std::string& algorithm,
         const py::kwargs& kw) {
        const py::array wc = py::array::ensure(w, py::array::c_style);
        const Prepared prepared = prepared_for(x_shape, wc, isa, algorithm, kw);
        const void* data = wc.data();
        const size_t bytes = static_cast<size_t>(wc.nbytes());
        py::gil_scoped_release release;
        return std::const_pointer_cast<PackedWeights>(shared_weights(prepared, data, bytes));
      },
      py::arg("x_shape"), py::arg("w"), py::arg("isa") = "", py::arg("algorithm") = "",
      "Packed weights as a session holds them: equal weights in equal layouts are one object.");

  m.def(
      "reads_original",
      [](const Dims& x_shape, const py::array& w, const std::string& isa, const std::string& algorithm,
         const py::kwargs& kw) {
        const py::array wc = py::array::ensure(w, py::array::c_style);
        const Prepared prepared = prepared_for(x_shape, wc, isa, algorithm, kw);
        return prepared.reads_original(*prepared.pack(wc.data()));
      },
      py::arg("x_shape"), py::arg("w"), py::arg("isa") = "", py::arg("algorithm") = "",
      "Whether runs may read W beside what is packed of it.");

  m.def(
      "weight_cache",
      [] {
        const WeightCacheUse use = weight_cache_use();
        return py::make_tuple(use.entries, use.bytes);
      },
      "Packed weights alive that pack() made: how many, and their bytes.");

  bind_quantized(m);
}
