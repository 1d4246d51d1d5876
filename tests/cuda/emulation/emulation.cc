#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/intrinsics.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace ort_tconv::cuda::emulation {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

struct Failure : std::runtime_error { using std::runtime_error::runtime_error; };

template <class... Parts> [[noreturn]] void fail(const Parts&... parts) {
  std::string text;
  const auto add = [&](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) text += std::to_string(part);
    else text += part;
  };
  (add(parts), ...);
  throw Failure(text);
}

// ---- fibers --------------------------------------------------------------------------------------

void enter_thread();

#ifdef __x86_64__
// Pushes what the ABI says a call preserves, and changes stacks.  ucontext would cost two system calls.
extern "C" void tconv_switch(void** from, void* to);
asm(R"(
.text
.type tconv_switch, @function
tconv_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tconv_switch, .-tconv_switch
)");

struct Fiber {
  void* at = nullptr;
  void start(char* stack) {
    void** top = reinterpret_cast<void**>(stack + kStackBytes);  // 16-byte aligned
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&enter_thread);  // where `ret` goes
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    at = top - 8;
  }
};
void switch_fibers(Fiber& from, Fiber& to) { tconv_switch(&from.at, to.at); }
#else
struct Fiber {
  ucontext_t at;
  void start(char* stack) {
    getcontext(&at);
    at.uc_stack.ss_sp = stack;
    at.uc_stack.ss_size = kStackBytes;
    at.uc_link = nullptr;
    makecontext(&at, &enter_thread, 0);
  }
};
void switch_fibers(Fiber& from, Fiber& to) { swapcontext(&from.at, &to.at); }
#endif

// ---- state ---------------------------------------------------------------------------------------

struct Operation {
  Product kind;
  float* c;
  const uint32_t* a;
  uint32_t b0, b1;
};

struct Copy {
  int offset;
  const void* source;
};

enum class State { kReady, kBarrier, kProduct, kDone };

struct Thread {
  Fiber fiber;
  State state = State::kReady;
  Operation operation{};
  std::vector<Copy> open;                 // issued since the last commit
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
};

// One 4-byte word of shared memory.  Epochs count barriers: what one thread writes, others may touch only
// in a later epoch, and what one reads, others may overwrite only in a later one.
struct Word {
  int write_epoch = -1, writer = -1, read_epoch = -1, reader = -1;
  bool written = false, awaited = false;
};
constexpr int kSeveral = -2;

struct Buffer {
  const char *begin, *end;
  Access access;
  std::string name;
  std::vector<bool> written;
};

struct Machine {
  std::vector<Buffer> buffers;
  Counts counts{};
  std::string error;

  Grid grid{};
  int64_t block[3] = {};
  int thread = 0, epoch = 0;
  std::vector<Thread> threads;
  std::vector<char> memory;  // shared
  std::vector<Word> words;
  std::unique_ptr<char, decltype(&std::free)> stacks{nullptr, &std::free};
  size_t stack_count = 0;
  Fiber scheduler;
  const std::function<void()>* body = nullptr;
};

Machine& machine() {
  static thread_local Machine m;
  return m;
}

std::string where() {
  const Machine& m = machine();
  return " (block " + std::to_string(m.block[0]) + "," + std::to_string(m.block[1]) + "," + std::to_string(m.block[2]) +
         ", thread " + std::to_string(m.thread) + ")";
}

void enter_thread() {
  Machine& m = machine();
  try {
    (*m.body)();
    Thread& t = m.threads[m.thread];
    if (!t.open.empty()) fail("asynchronous copies were never committed");
    for (const auto& group : t.groups)
      if (!group.empty()) fail("asynchronous copies were never awaited");
  } catch (const std::exception& e) {
    if (m.error.empty()) m.error = e.what() + where();
  }
  Thread& t = m.threads[m.thread];
  t.state = State::kDone;
  switch_fibers(t.fiber, m.scheduler);
}

void wait_as(State state) {
  Machine& m = machine();
  Thread& t = m.threads[m.thread];
  t.state = state;
  switch_fibers(t.fiber, m.scheduler);
}

// ---- warp products -------------------------------------------------------------------------------

const std::vector<float>& half_table() {
  static const std::vector<float> table = [] {
    std::vector<float> v(1 << 16);
    for (int bits = 0; bits < 1 << 16; ++bits) {
      const int sign = bits >> 15, exponent = bits >> 10 & 31, mantissa = bits & 1023;
      float f = exponent == 31  ? (mantissa ? NAN : INFINITY)
                : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
      v[bits] = sign ? -f : f;
    }
    return v;
  }();
  return table;
}

// Elements of a 32-bit register.
int unpack(Product kind, uint32_t reg, float* out) {
  switch (kind) {
    case Product::kF16:
      out[0] = half_to_float(reg & 0xffff);
      out[1] = half_to_float(reg >> 16);
      return 2;
    case Product::kBF16:
      out[0] = to_float(BFloat16{static_cast<uint16_t>(reg & 0xffff)});
      out[1] = to_float(BFloat16{static_cast<uint16_t>(reg >> 16)});
      return 2;
    case Product::kTF32: {
      reg &= ~0x1fffu;  // the hardware ignores these
      std::memcpy(out, &reg, 4);
      return 1;
    }
  }
  return 0;
}

// PTX ISA, matrix fragments of mma.m16n8k16 (two elements a register) and mma.m16n8k8 (.tf32, one): with
// g = lane / 4, t = lane % 4 and e elements a register,
//   A: register i holds row g + 8*(i & 1), columns e*t + (i >> 1)*4*e ..
//   B: register i holds column g, rows e*t + i*4*e ..
//   C: registers 0, 1 hold row g, columns 2t, 2t+1; registers 2, 3 row g + 8.
void multiply_warp(Thread* lanes) {
  const Product kind = lanes[0].operation.kind;
  float a[16][16], b[16][8];
  int width = 1;
  for (int lane = 0; lane < kWarp; ++lane) {
    const Operation& op = lanes[lane].operation;
    if (op.kind != kind) fail("the lanes of a warp multiply different types");
    const int g = lane / 4, t = lane % 4;
    float v[2];
    for (int i = 0; i < 4; ++i) {
      width = unpack(kind, op.a[i], v);
      for (int e = 0; e < width; ++e) a[g + 8 * (i & 1)][width * t + (i >> 1) * 4 * width + e] = v[e];
    }
    for (int i = 0; i < 2; ++i) {
      unpack(kind, i ? op.b1 : op.b0, v);
      for (int e = 0; e < width; ++e) b[width * t + i * 4 * width + e][g] = v[e];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    float* c = lanes[lane].operation.c;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i >> 1), column = 2 * (lane % 4) + (i & 1);
      for (int k = 0; k < 8 * width; ++k) c[i] += a[row][k] * b[k][column];
    }
  }
}

// ---- scheduler -----------------------------------------------------------------------------------

void resume(int thread) {
  Machine& m = machine();
  m.thread = thread;
  switch_fibers(m.scheduler, m.threads[thread].fiber);
}

// Runs a warp until its lanes wait at a barrier or are done.
bool run_warp(int warp) {
  Machine& m = machine();
  Thread* lanes = &m.threads[warp * kWarp];
  bool progress = false;
  while (m.error.empty()) {
    int products = 0, live = 0;
    for (int i = 0; i < kWarp; ++i) {
      // Odd barriers run the lanes backwards: no result may depend on the order.
      const int lane = m.epoch & 1 ? kWarp - 1 - i : i;
      if (lanes[lane].state == State::kReady) {
        resume(warp * kWarp + lane);
        progress = true;
      }
      live += lanes[lane].state != State::kDone;
      products += lanes[lane].state == State::kProduct;
    }
    if (products == 0 || !m.error.empty()) break;
    if (products != kWarp) fail("a warp's product was reached by ", products, " of its lanes");
    multiply_warp(lanes);
    ++m.counts.products;
    for (int lane = 0; lane < kWarp; ++lane) lanes[lane].state = State::kReady;
  }
  return progress;
}

void run_block(int threads, int shared_bytes) {
  Machine& m = machine();
  m.epoch = 0;
  m.threads.clear();
  m.threads.resize(threads);
  m.memory.assign(shared_bytes, '\xff');  // NaN of every type
  m.words.assign((shared_bytes + 3) / 4, Word{});
  for (int i = 0; i < threads; ++i) m.threads[i].fiber.start(m.stacks.get() + i * kStackBytes);
  while (m.error.empty()) {
    bool progress = false;
    for (int i = 0; i < threads / kWarp; ++i)
      progress = run_warp(m.epoch & 1 ? threads / kWarp - 1 - i : i) || progress;
    if (!m.error.empty()) return;
    int waiting = 0, done = 0;
    for (const Thread& t : m.threads) waiting += t.state == State::kBarrier, done += t.state == State::kDone;
    if (done == threads) return;
    if (done > 0 && waiting > 0) fail("a barrier was reached by ", waiting, " of ", threads, " threads");
    if (waiting == threads) {
      ++m.epoch;
      ++m.counts.barriers;
      for (Thread& t : m.threads) t.state = State::kReady;
    } else if (!progress) {
      fail("deadlock");
    }
  }
}

Word* words_at(int offset, int bytes) {
  Machine& m = machine();
  if (offset < 0 || offset + bytes > static_cast<int>(m.memory.size()))
    fail("shared memory: bytes ", offset, " to ", offset + bytes, " of ", m.memory.size());
  if (offset % bytes != 0 || bytes % 4 != 0) fail("shared memory: ", bytes, " bytes at ", offset, " are misaligned");
  return &m.words[offset / 4];
}

void check_writable(int offset, int bytes) {
  const Machine& m = machine();
  const Word* words = words_at(offset, bytes);
  for (int i = 0; i < bytes / 4; ++i) {
    const Word& w = words[i];
    if (w.awaited) fail("shared memory at ", offset, " is written while an asynchronous copy to it is under way");
    if (w.write_epoch == m.epoch && w.writer != m.thread)
      fail("shared memory at ", offset, " is written by threads ", w.writer, " and ", m.thread, " without a barrier");
    if (w.read_epoch == m.epoch && w.reader != m.thread)
      fail("shared memory at ", offset, " is read, and written by thread ", m.thread, " without a barrier");
  }
}

}  // namespace

// ---- what kernels call ---------------------------------------------------------------------------

int thread_index() { return machine().thread; }
int64_t block_index(int axis) { return machine().block[axis]; }
int64_t grid_size(int axis) { return axis == 0 ? machine().grid.x : axis == 1 ? machine().grid.y : machine().grid.z; }
void sync_threads() { wait_as(State::kBarrier); }

void check_global(const void* p, int64_t bytes, bool write) {
  const char* at = static_cast<const char*>(p);
  for (Buffer& b : machine().buffers) {
    if (at < b.begin || at + bytes > b.end) continue;
    // Buffers are aligned to 16 bytes or deliberately not; a vector must be aligned as hardware wants it.
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0) fail("global memory: ", bytes, " misaligned bytes of ", b.name);
    if (!write) return;
    if (b.access == Access::kRead) fail("global memory: ", b.name, " is written");
    for (int64_t i = at - b.begin; i < at - b.begin + bytes; ++i) {
      if (b.written[i]) fail("global memory: byte ", i, " of ", b.name, " is written twice");
      b.written[i] = true;
    }
    return;
  }
  std::string nearest;
  for (const Buffer& b : machine().buffers)
    if (at >= b.begin - 65536 && at < b.end + 65536)
      nearest += ", " + std::to_string(at - b.begin) + " from the begin of " + b.name + " of " +
                 std::to_string(b.end - b.begin);
  fail("global memory: ", bytes, write ? " bytes written" : " bytes read", " out of bounds", nearest);
}

void read_shared(int offset, int bytes, void* out) {
  Machine& m = machine();
  Word* words = words_at(offset, bytes);
  for (int i = 0; i < bytes / 4; ++i) {
    Word& w = words[i];
    if (w.awaited) fail("shared memory at ", offset, " is read before the asynchronous copy to it was awaited");
    if (!w.written) fail("shared memory at ", offset, " is read but was never written");
    if (w.write_epoch == m.epoch && w.writer != m.thread)
      fail("shared memory at ", offset, " is read by thread ", m.thread, ", written by ", w.writer,
           " without a barrier");
    w.reader = w.read_epoch == m.epoch && w.reader != m.thread ? kSeveral : m.thread;
    w.read_epoch = m.epoch;
  }
  std::memcpy(out, m.memory.data() + offset, bytes);
}

void write_shared(int offset, int bytes, const void* in) {
  Machine& m = machine();
  check_writable(offset, bytes);
  for (int i = 0; i < bytes / 4; ++i) {
    Word& w = m.words[offset / 4 + i];
    w.written = true, w.writer = m.thread, w.write_epoch = m.epoch;
  }
  std::memcpy(m.memory.data() + offset, in, bytes);
}

// The bytes appear when the copy is awaited, the latest moment hardware allows.
void async_copy(int offset, const void* source) {
  Machine& m = machine();
  check_writable(offset, 16);
  check_global(source, 16, false);
  for (int i = 0; i < 4; ++i) m.words[offset / 4 + i].awaited = true;
  m.threads[m.thread].open.push_back({offset, source});
  ++m.counts.async_copies;
}

void async_commit() {
  Thread& t = machine().threads[machine().thread];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void async_wait(int pending) {
  Machine& m = machine();
  Thread& t = m.threads[m.thread];
  while (static_cast<int>(t.groups.size()) > pending) {
    for (const Copy& c : t.groups.front()) {
      for (int i = 0; i < 4; ++i) m.words[c.offset / 4 + i].awaited = false;
      write_shared(c.offset, 16, c.source);
    }
    t.groups.erase(t.groups.begin());
  }
}

void multiply(Product kind, float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  machine().threads[machine().thread].operation = {kind, c, a, b0, b1};
  wait_as(State::kProduct);
}

// ---- what tests call -----------------------------------------------------------------------------

void add_buffer(const void* data, int64_t bytes, Access access, const char* name) {
  const char* begin = static_cast<const char*>(data);
  machine().buffers.push_back({begin, begin + bytes, access, name, {}});
  if (access == Access::kWriteOnce) machine().buffers.back().written.resize(bytes);
}
void clear_buffers() { machine().buffers.clear(); }

int64_t unwritten_bytes(const void* data) {
  for (const Buffer& b : machine().buffers)
    if (b.begin == data) return std::count(b.written.begin(), b.written.end(), false);
  return -1;
}

Counts take_counts() { return std::exchange(machine().counts, Counts{}); }

const char* run_grid(Grid grid, int threads, int shared_bytes, const std::function<void()>& body) {
  Machine& m = machine();
  m.error.clear();
  m.grid = grid;
  m.body = &body;
  if (m.stack_count < static_cast<size_t>(threads)) {
    m.stacks.reset(static_cast<char*>(std::aligned_alloc(4096, threads * kStackBytes)));
    m.stack_count = threads;
  }
  try {
    if (threads % kWarp != 0) fail("a block of ", threads, " threads");
    for (m.block[2] = 0; m.block[2] < grid.z; ++m.block[2])
      for (m.block[1] = 0; m.block[1] < grid.y; ++m.block[1])
        for (m.block[0] = 0; m.block[0] < grid.x && m.error.empty(); ++m.block[0]) run_block(threads, shared_bytes);
  } catch (const std::exception& e) {
    m.error = e.what();
  }
  return m.error.empty() ? nullptr : m.error.c_str();
}

float half_to_float(uint16_t bits) { return half_table()[bits]; }

uint16_t float_to_half(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float size = std::fabs(v);
  if (size != size) return sign | 0x7e00;
  if (size >= 65520.f) return sign | 0x7c00;
  // In units of the spacing at this size, to the nearest even; a carry runs on into the exponent.
  int exponent;
  std::frexp(size, &exponent);
  const int spacing = size == 0 ? -24 : std::max(exponent - 11, -24);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(size, -spacing)));
  return static_cast<uint16_t>(sign | (spacing == -24 ? units : ((spacing + 25) << 10) + (units - 1024)));
}

}  // namespace ort_tconv::cuda::emulation
