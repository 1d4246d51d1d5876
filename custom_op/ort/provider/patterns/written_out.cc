// Activations that several nodes write out.  What these compute from x is a polynomial in x and in functions of
// polynomials; however an exporter orders and groups the factors, the polynomial is the same.
#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <numeric>
#include <set>

#include "ort/provider/patterns/activation.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

constexpr size_t kMostNodes = 12, kMostTerms = 8;

using Term = std::map<int, int>;            // powers of atoms
using Polynomial = std::map<Term, double>;  // coefficients
struct Atom {
  std::string function;
  Polynomial argument;
};  // x itself has no function

class Algebra {
 public:
  Algebra() { atoms_.push_back({}); }

  Polynomial x() const { return {{{{0, 1}}, 1.0}}; }
  static Polynomial constant(double number) { return {{{}, number}}; }

  static Polynomial add(const Polynomial& a, const Polynomial& b, double sign = 1) {
    Polynomial result = a;
    for (const auto& [term, coefficient] : b) result[term] += sign * coefficient;
    for (auto it = result.begin(); it != result.end();) it = it->second == 0 ? result.erase(it) : std::next(it);
    return result;
  }
  static Polynomial multiply(const Polynomial& a, const Polynomial& b) {
    Polynomial result;
    for (const auto& [p, c] : a)
      for (const auto& [q, d] : b) {
        Term term = p;
        for (const auto& [atom, power] : q) term[atom] += power;
        result[term] += c * d;
      }
    return result;
  }
  static Polynomial scaled(Polynomial a, double factor) {
    for (auto& [term, coefficient] : a) coefficient *= factor;
    return a;
  }
  Polynomial call(const std::string& function, const Polynomial& argument) {
    const auto same = [&](const Atom& atom) { return atom.function == function && atom.argument == argument; };
    const auto found = std::find_if(atoms_.begin(), atoms_.end(), same);
    const int id = static_cast<int>(found - atoms_.begin());
    if (found == atoms_.end()) atoms_.push_back({function, argument});
    return {{{{id, 1}}, 1.0}};
  }
  // Clip(a, 0, h) = h Clip(a / h, 0, 1), so that there is one form of it.
  std::optional<Polynomial> clip(const Polynomial& a, double low, double high) {
    if (low != 0 || !(high > 0) || std::isinf(high)) return std::nullopt;
    return scaled(call("Clip", scaled(a, 1 / high)), high);
  }

  // Whether the polynomials are the same but for the rounding of coefficients.
  bool close(const Polynomial& a, const Polynomial& b, double tolerance) const {
    if (a.size() != b.size()) return false;
    std::vector<std::pair<Term, double>> left(b.begin(), b.end());
    for (const auto& [term, coefficient] : a) {
      const auto match = std::find_if(left.begin(), left.end(), [&, &t = term, &c = coefficient](const auto& other) {
        const double scale = std::max(std::fabs(c), std::fabs(other.second));
        return std::fabs(c - other.second) <= tolerance * scale && close(t, other.first, tolerance);
      });
      if (match == left.end()) return false;
      left.erase(match);
    }
    return true;
  }

 private:
  bool close(const Term& a, const Term& b, double tolerance) const {
    if (a.size() != b.size()) return false;
    const std::vector<std::pair<int, int>> left(a.begin(), a.end()), right(b.begin(), b.end());
    std::vector<size_t> order(right.size());
    std::iota(order.begin(), order.end(), size_t{0});
    do {
      bool all = true;
      for (size_t i = 0; i < left.size() && all; ++i) {
        const auto& [atom, power] = right[order[i]];
        all = left[i].second == power && same(left[i].first, atom, tolerance);
      }
      if (all) return true;
    } while (std::next_permutation(order.begin(), order.end()));
    return false;
  }
  bool same(int a, int b, double tolerance) const {
    if (a == b) return true;
    if (a == 0 || b == 0) return false;
    return atoms_[a].function == atoms_[b].function && close(atoms_[a].argument, atoms_[b].argument, tolerance);
  }

  std::vector<Atom> atoms_;
};

std::vector<std::pair<const char*, Polynomial>> forms(Algebra& algebra) {
  using A = Algebra;
  const Polynomial x = algebra.x();
  const double root = std::sqrt(2 / std::acos(-1.0));
  const auto gated = [&](const Polynomial& gate) {
    return A::scaled(A::multiply(x, A::add(A::constant(1), gate)), 0.5);
  };
  const Polynomial sixth = A::add(A::scaled(x, 1.0 / 6), A::constant(0.5));
  const Polynomial inner = A::add(A::scaled(x, root), {{{{0, 3}}, 0.044715 * root}});
  return {{"HardSwish", A::multiply(x, algebra.call("Clip", sixth))},
          {"Silu", A::multiply(x, algebra.call("Sigmoid", x))},
          {"Gelu", gated(algebra.call("Erf", A::scaled(x, std::sqrt(0.5))))},
          {"GeluTanh", gated(algebra.call("Tanh", inner))}};
}

using Known = std::map<const Value*, Polynomial>;

std::optional<Polynomial> express(const Node& node, const Known& known, size_t rank, const Graph& graph,
                                  Algebra& algebra) {
  if (!node.domain.empty()) return std::nullopt;
  const auto operand = [&](size_t index) -> std::optional<Polynomial> {
    const auto found = known.find(node.input(index));
    if (found != known.end()) return found->second;
    const auto tensor = graph.constant(node.input(index));
    if (!tensor || element_count(tensor->shape, "size") != 1 || tensor->shape.size() > rank ||
        !float_type(tensor->type))
      return std::nullopt;
    return Algebra::constant(to_double(*tensor)[0]);
  };
  const auto a = operand(0);
  if (!a) return std::nullopt;
  const std::string& op = node.op;
  if (op == "Erf" || op == "Sigmoid" || op == "Tanh") return algebra.call(op, *a);
  if (op == "Neg") return Algebra::scaled(*a, -1);
  if (op == "HardSigmoid") {
    const double alpha = graph.number(node, "alpha", 0.2f), beta = graph.number(node, "beta", 0.5f);
    return algebra.call("Clip", Algebra::add(Algebra::scaled(*a, alpha), Algebra::constant(beta)));
  }
  if (op == "Clip") {
    const auto bounds = clip_bounds(node, graph);
    return algebra.clip(*a, bounds[0], bounds[1]);
  }
  if (op != "Add" && op != "Sub" && op != "Mul" && op != "Div" && op != "Pow") return std::nullopt;
  const auto b = operand(1);
  if (!b) return std::nullopt;
  if (op == "Add" || op == "Sub") return Algebra::add(*a, *b, op == "Add" ? 1 : -1);
  if (op == "Mul") return Algebra::multiply(*a, *b);
  if (b->size() != 1 || !b->begin()->first.empty()) return std::nullopt;
  const double number = b->begin()->second;
  if (op == "Div") return number ? std::optional(Algebra::scaled(*a, 1 / number)) : std::nullopt;
  if (number == 2) return Algebra::multiply(*a, *a);
  if (number == 3) return Algebra::multiply(*a, Algebra::multiply(*a, *a));
  return std::nullopt;
}

// Those of `nodes` that `last` needs, in order; empty if others read their results.
std::vector<const Node*> leading_to(const Node* last, const Value& value, const std::vector<const Node*>& nodes) {
  std::set<const Node*> needed{last};
  std::vector<const Node*> stack{last};
  while (!stack.empty()) {
    const Node* const node = stack.back();
    stack.pop_back();
    for (const Value* source : node->inputs) {
      const Node* const producer = source ? source->producer : nullptr;
      if (std::find(nodes.begin(), nodes.end(), producer) != nodes.end() && needed.insert(producer).second)
        stack.push_back(producer);
    }
  }
  const auto only_read_here = [&](const Value& inner) {
    return !inner.graph_output && std::all_of(inner.readers.begin(), inner.readers.end(),
                                              [&](const Node* reader) { return needed.count(reader) > 0; });
  };
  if (!only_read_here(value)) return {};
  std::vector<const Node*> result;
  for (const Node* node : nodes) {
    if (node == last || !needed.count(node)) continue;
    if (!only_read_here(*node->outputs[0])) return {};
    result.push_back(node);
  }
  result.push_back(last);
  return result;
}

double tolerance_of(DType dtype) {
  switch (dtype) {  // constants are rounded to the model's type, and multiplied with each other
    case DType::kFloat64: return 1e-12;
    case DType::kFloat16: return 0x1p-10;
    case DType::kBFloat16: return 0x1p-7;
    default: return 1e-6;
  }
}

}  // namespace

std::optional<WrittenOut> written_out_activation(const Value& value, size_t rank, DType dtype, const Graph& graph) {
  Algebra algebra;
  const auto wanted = forms(algebra);
  Known known{{&value, algebra.x()}};
  std::vector<const Node*> nodes;
  std::deque<const Node*> waiting(value.readers.begin(), value.readers.end());
  while (!waiting.empty() && nodes.size() < kMostNodes) {
    const Node* const node = waiting.front();
    waiting.pop_front();
    if (std::find(nodes.begin(), nodes.end(), node) != nodes.end() || node->outputs.size() != 1 || !node->outputs[0])
      continue;
    std::optional<Polynomial> result;
    try {
      result = express(*node, known, rank, graph, algebra);
    } catch (const Refusal&) {  // of a Clip
    }
    // Another of its inputs may become known later, and bring it back.
    if (!result || result->size() > kMostTerms) continue;
    nodes.push_back(node);
    const Value& output = *node->outputs[0];
    known[&output] = *result;
    for (const auto& [name, form] : wanted) {
      if (!algebra.close(*result, form, tolerance_of(dtype))) continue;
      auto used = leading_to(node, value, nodes);
      if (!used.empty()) return WrittenOut{{name, {}}, std::move(used)};
    }
    waiting.insert(waiting.end(), output.readers.begin(), output.readers.end());
  }
  return std::nullopt;
}

}  // namespace ort_tconv::provider
