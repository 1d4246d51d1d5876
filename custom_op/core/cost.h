// What a plan costs: the time it is predicted to take, counted in multiply-adds of vectors of all threads.
#pragma once

#include <string>
#include <vector>

#include "core/plan.h"

namespace ort_tconv {

// Costs of what Work counts.  A multiply-add in a full block of a matrix product costs 1.
struct CostConstants {
  // Matrix products: what they lose to short blocks, a load of a vector of weights, the start of a sum (first
  // loads, last stores), a task, each further thread that takes part.
  double stall = 2.2, weight_load = 1.27, sum = 0.123, task = 11400, wake = 26300;
  // Vectors of direct's window, of Winograd's transformed input and its results, of the output.
  double copy = 55.2, transform = 17.9, transform_back = 18.5, store = 30.8;
  // The narrow engine: multiply-adds, loads of vectors of the window, vectors copied into it, of the output.
  double row = 1.27, row_load = 1.76, row_copy = 5, row_store = 15.4;
  // More for each multiply-add of tiles that outgrow the near caches, in matrix products and in the narrow engine.
  double outgrown = 0.1, row_outgrown = 0.064;
  // A byte of weights from the second level, from the last one, from memory for one thread and for each of many,
  // which share its bandwidth.
  double near_byte = 0.3, far_byte = 0.4, memory_byte = 0.305, shared_byte = 0.12;
  // The part of the shorter of arithmetic and fetching that does not overlap with the longer.
  double exposed = 0.349;
  // What keeping a byte of weights for the session is worth, which no recording tells: a microsecond saved in each
  // run may cost 130 KB at 6.8 vectors' multiply-adds a nanosecond, those of a core with two units at 3.4 GHz, and each
  // thread waits that microsecond.
  double kept_byte = 0.05;
  // A packed weight where that is done in every run: by whole rows, made of several by Winograd, by itself.
  double pack = 2, pack_transformed = 7, pack_single = 10;
};

// By name, for tests and for fitting.
std::vector<std::pair<const char*, double CostConstants::*>> constant_names();

// Those of an instruction set.
CostConstants cost_constants(const std::string& isa);

// In a session of all the machine's threads.
double cost(const Plan& plan, const Machine& machine, const CostConstants& constants);
inline double cost(const Plan& plan, const Machine& machine) {
  return cost(plan, machine, cost_constants(machine.isa));
}

// In a session of another number of threads.
double cost_with(int threads, const Plan& plan, const Problem& problem, const Machine& machine);

// Geometric mean over sessions of all sizes (session_sizes): what a plan loses in one counts as much as what it gains,
// by the same factor, in another.
double session_cost(const Plan& plan, const Problem& problem, const Machine& machine);

}  // namespace ort_tconv
