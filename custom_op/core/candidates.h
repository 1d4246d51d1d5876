// The plans that a problem could run by: each algorithm with each choice of axes and each way to share out the
// work.  Which of them is the fastest is for cost.h to say.
#pragma once

#include <vector>

#include "core/plan.h"

namespace ort_tconv {

// Those that suit a session of all the machine's threads.  Never empty, in a fixed order; costs and reasons are not
// set.
std::vector<Plan> candidates(const Problem& problem, DType dtype, const Machine& machine);

// Those for sessions of every size (session_sizes) that leave no thread of a larger session without work, each once;
// but where there are larger ones none for one thread, which would leave those too few tasks to even out what slows a
// thread down.
std::vector<Plan> session_candidates(const Problem& problem, DType dtype, const Machine& machine);

// Longest thread over the mean one in a session of so many, if a thread that is done draws the next task, and tasks
// take as long as their tile and their blocks are large.  Of very many tasks the largest one decides.
double imbalance(const Plan& plan, const Problem& problem, int threads);

}  // namespace ort_tconv
