// Memory that the system may take back.
#pragma once

#include <cstddef>

namespace ort_tconv {

// Tells the system that the bytes will hardly be read again.  Pages that are those of a file are dropped from
// memory, and read again from there if they are; others stay as they are.  Never changes what is read.
void let_go(const void* data, size_t bytes);

// Gives the system what the process has freed and the C library keeps for later, where it knows how to: before much
// memory is asked for in pieces for which it would not be used.
void return_free_memory();

}  // namespace ort_tconv
