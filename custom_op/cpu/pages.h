// Memory that the system may take back.
#pragma once

#include <cstddef>

namespace ort_tconv {

// Tells the system that the bytes will hardly be read again.  Pages that are those of a file are dropped from
// memory, and read again from there if they are; others stay as they are.  Never changes what is read.
void let_go(const void* data, size_t bytes);

}  // namespace ort_tconv
