#!/usr/bin/env bash
# Usage: tests/reliability/sanitize.sh PYTHON [address] [thread]
# Builds the core, the operator library and the C++ checks with the address and undefined-behaviour
# sanitizers, then with the thread sanitizer, and runs them; or one of the two. PYTHON has the package and its
# tests' needs; CXX may name a compiler.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
parts=${*:-address thread}
bin=$(dirname "$python")
PATH=$(cd "$bin" && pwd):$PATH
ort=$("$python" -c 'import glob, onnxruntime, os
print(glob.glob(os.path.dirname(onnxruntime.__file__) + "/capi/libonnxruntime.so.1.*")[0])')
failed=()

step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$log" 2>&1; then
    printf '%-58s ok   %4d s  %s\n' "$name" $((SECONDS - start)) "$(tail -n 1 "$log" | cut -c1-100)"
  else
    printf '%-58s FAILED\n' "$name"
    tail -n 60 "$log"
    failed+=("$name")
  fi
}

build() { # folder, sanitizers, targets
  local folder=$1 sanitizers=$2
  shift 2
  cmake -S . -B "$folder" -DORT_TCONV_SANITIZE="$sanitizers" -DORT_TCONV_BUILD_CHECKS=ON -DORT_TCONV_BUILD_PYTHON=OFF \
    -DORT_TCONV_CUDA=OFF -DORT_TCONV_ORT_LIBRARY="$ort" &&
    cmake --build "$folder" -j "$(nproc)" --target "$@" && echo "$("${CXX:-c++}" --version | head -n 1)"
}

# The package as it is installed, but with the library built here. A copy: the package looks for the library beside
# the file that a link to its extension module leads to.
site() { # folder
  rm -rf "$1/site"
  mkdir -p "$1/site"
  cp -r "$("$python" -c 'import os, ort_tconv; print(os.path.dirname(ort_tconv.__file__))')" "$1/site/ort_tconv"
  ln -sf "$PWD/$1/libort_tconv.so" "$1/site/ort_tconv/libort_tconv.so"
}

# Sessions through Python, without malformed models: where an allocation fails, the sanitizer's operator new
# ends the process. Python's own leaks are not ours: those of sessions are looked for without it, above.
sessions() {
  [ "$(PYTHONPATH=build/sanitize-address/site "$python" -c 'import ort_tconv; print(ort_tconv.get_library_path())')" = \
    "$PWD/build/sanitize-address/site/ort_tconv/libort_tconv.so" ] || return 1
  LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize-address/site ORT_TCONV_EXAMPLES=15 \
    "$python" -m pytest -q -p no:cacheprovider tests/ort/test_op.py tests/ort/test_stock.py \
    tests/provider/test_provider_quantized.py
}

address() {
  local dir=build/sanitize-address seeds=build/seeds
  "$python" tests/fuzz/fuzz.py --unpack $seeds
  step "build with address and undefined-behaviour sanitizers" build $dir address,undefined all
  step "engine: algorithms x types x instruction sets" $dir/tests/engine_check
  step "engine: threads and the weight cache" $dir/tests/stress
  step "engine: each allocation fails once, leaks" $dir/tests/engine_faults
  step "engine: the fuzzer's seeds" $dir/tests/fuzz_engine $seeds/engine
  step "quantised engine: the fuzzer's seeds" $dir/tests/fuzz_quantized $seeds/quantized
  step "sessions: threads, creation and destruction, leaks" $dir/tests/session_stress
  step "sessions: each allocation fails once, leaks" $dir/tests/session_faults
  ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=32 \
    step "sessions: the fuzzer's malformed models, leaks" $dir/tests/fuzz_model $seeds/model
  site $dir
  step "sessions: pytest, through Python" sessions
}

thread() {
  local dir=build/sanitize-thread
  # Not the checks with an operator new of their own: that of clang's thread sanitizer is linked in.
  step "build with the thread sanitizer" build $dir thread stress session_stress
  step "engine: threads and the weight cache" $dir/tests/stress
  # ONNX Runtime is not instrumented; what it does by itself is not judged.
  TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
    step "sessions: threads, creation and destruction" $dir/tests/session_stress
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for part in $parts; do "$part"; done

[ ${#failed[@]} -eq 0 ]
