# Every target does all of its own set-up, in .venv and build/, and nothing twice.

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
GPU ?= .venv-gpu
BENCH_ARGS ?=
FUZZ_ARGS ?= --seconds 30
SANITIZE_ARGS ?=
COMPAT_ARGS ?=
WHEEL_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# What the wheel is made of.
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
  $(shell find cmake custom_op python converters -type f -not -name '*.pyc')

.PHONY: help demo test test-oldest test-models test-scale bench bench-peers bench-models bench-rewrites bench-paper \
  bench-candidates \
  cuda-build gpu docs figures lint clean sanitize fuzz compat wheel

help:
	@echo "make demo         convert two models, validate them, show the gain"
	@echo "make test         run the test suite"
	@echo "make test-oldest  the same with the oldest dependencies that pyproject.toml allows"
	@echo "make test-models  run the tests of whole networks, which PyTorch exports"
	@echo "make test-scale   run the tests of Ray and Triton, whose packages this installs"
	@echo "make bench        time every layer of benchmarks/workloads.json (BENCH_ARGS=...)"
	@echo "make bench-peers  the same, with PyTorch, OpenVINO and LiteRT installed to compare with"
	@echo "make bench-models time whole models, which PyTorch exports (BENCH_ARGS=...)"
	@echo "make bench-rewrites  time what else becomes a transposed convolution (BENCH_ARGS=...)"
	@echo "make bench-candidates  time every plan of every layer, for this processor's recording (BENCH_ARGS=...)"
	@echo "make bench-paper  the paper's claims: conventional, segregated and unified loops, stock, ours"
	@echo "make cuda-build   compile the CUDA kernels and print what they take; needs nvcc, but no GPU"
	@echo "make gpu          test and time the CUDA kernels; needs an NVIDIA GPU and nvcc (BENCH_ARGS=...)"
	@echo "make docs         build the documentation into build/docs; a warning is an error"
	@echo "make figures      draw docs/figures/*.svg from the code"
	@echo "make lint         check formatting and style, repairing what a tool can repair"
	@echo "make sanitize     the C++ code and sessions under address, undefined-behaviour and thread sanitizers"
	@echo "make fuzz         fuzz the engine, and sessions with malformed models (FUZZ_ARGS=--seconds 600)"
	@echo "make compat       run the tests on other versions of ONNX Runtime and Python (COMPAT_ARGS=...)"
	@echo "make wheel        build, repair and test the wheel that is published, and the source distribution (WHEEL_ARGS=--cuda or --aarch64)"
	@echo "make clean        remove everything that these made"

demo: $(VENV)/.package $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.package $(VENV)/.test
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

test-oldest: $(VENV)/.package $(OLDEST)/.test
	$(OLDEST)/bin/python -m pip -q install --no-deps --force-reinstall build/wheel/*.whl
	$(OLDEST)/bin/python -m pytest -n auto $(PYTEST_ARGS)

test-models: $(VENV)/.package $(VENV)/.test $(VENV)/.models $(VENV)/.demo
	$(BIN)/python -m pytest tests/models --slow $(PYTEST_ARGS)

test-scale: $(VENV)/.package $(VENV)/.test $(VENV)/.ray $(VENV)/.triton
	$(BIN)/python -m pytest tests/packaging/test_ray.py tests/python/test_triton.py $(PYTEST_ARGS)

bench: $(VENV)/.package $(VENV)/.bench
	$(BIN)/python benchmarks/bench_session.py $(BENCH_ARGS)

# Hundreds of megabytes, or gigabytes where PyPI's torch brings CUDA along; hence not a part of bench.
bench-peers: $(VENV)/.peers bench

bench-models: $(VENV)/.package $(VENV)/.bench $(VENV)/.models
	$(BIN)/python benchmarks/bench_models.py $(BENCH_ARGS)

bench-rewrites: $(VENV)/.package $(VENV)/.bench
	$(BIN)/python benchmarks/bench_rewrites.py $(BENCH_ARGS)

bench-candidates: $(VENV)/.package $(VENV)/.bench
	$(BIN)/python benchmarks/candidates.py $(BENCH_ARGS)

bench-paper: $(VENV)/.package $(VENV)/.bench
	$(BIN)/python benchmarks/paper.py $(BENCH_ARGS)

cuda-build:
	$(PYTHON) tests/cuda/compile.py

# The first prerequisite says what is missing on a machine without a GPU.
gpu: gpu-present $(GPU)/.gpu
	PATH="$$PATH:/usr/local/cuda/bin" $(GPU)/bin/python -m pytest -m gpu tests/cuda $(PYTEST_ARGS)
	@if sanitizer=$$(PATH="$$PATH:/usr/local/cuda/bin" command -v compute-sanitizer); then \
	  for tool in memcheck racecheck; do \
	    "$$sanitizer" --tool $$tool --error-exitcode 1 --target-processes all \
	      $(GPU)/bin/python -m pytest -q -m gpu tests/cuda/test_kernels.py -k integers_are_exact || exit 1; \
	  done; \
	else echo "compute-sanitizer was not found: memory and races were not checked"; fi
	$(GPU)/bin/python benchmarks/bench_cuda.py $(BENCH_ARGS)

.PHONY: gpu-present
gpu-present:
	@$(PYTHON) tests/cuda/gpu.py

# onnxruntime-gpu takes the place of onnxruntime, hence an environment of its own.
$(GPU)/.gpu: $(SOURCES) | gpu-present
	$(PYTHON) -m venv $(GPU)
	PATH="$$PATH:/usr/local/cuda/bin" $(GPU)/bin/python -m pip --disable-pip-version-check -q install '.[gpu,test,bench]' \
	  --config-settings build-dir=build/gpu \
	  --config-settings cmake.define.ORT_TCONV_CUDA=ON --config-settings cmake.define.CMAKE_CUDA_ARCHITECTURES=native
	$(GPU)/bin/python -m pip --disable-pip-version-check -q install torch
	@touch $@

docs: $(VENV)/.package $(VENV)/.docs
	$(BIN)/python docs/figures/draw.py --check
	$(BIN)/mkdocs build --strict

figures: $(VENV)/.package $(VENV)/.docs
	$(BIN)/python docs/figures/draw.py

# Needs g++ with its sanitizers' libraries, which Debian's g++ brings along.
sanitize: $(VENV)/.package $(VENV)/.test
	tests/reliability/sanitize.sh $(BIN)/python $(SANITIZE_ARGS)

# Needs clang with libFuzzer (Debian: clang-19 libclang-rt-19-dev).
fuzz: $(VENV)/.package $(VENV)/.test
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tests/fuzz/fuzz.py $(FUZZ_ARGS)

compat: | $(BIN)/python
	$(BIN)/python tests/reliability/compat.py $(COMPAT_ARGS)

wheel: | $(BIN)/python
	$(BIN)/python tests/reliability/wheel.py $(WHEEL_ARGS)

# The same hooks as with 'pre-commit install'; they come from PyPI.
lint: $(VENV)/.pre-commit
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

clean:
	rm -rf $(VENV) $(OLDEST) $(GPU) build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10; name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.pre-commit: | $(BIN)/python
	$(PIP) install pre-commit
	@touch $@

# The package is built once for all extras. pip regards a wheel of the same version as installed
# already, hence --force-reinstall.
$(VENV)/.package: $(SOURCES) | $(BIN)/python
	rm -rf build/wheel
	$(PIP) wheel --no-deps --wheel-dir build/wheel .
	$(PIP) install --no-deps --force-reinstall build/wheel/*.whl
	@touch $@

# What an extra brings depends on pyproject.toml, not on the sources.
$(VENV)/.test $(VENV)/.bench $(VENV)/.docs $(VENV)/.peers $(VENV)/.ray $(VENV)/.triton: $(VENV)/.%: pyproject.toml | $(VENV)/.package
	$(PIP) install "$$(echo build/wheel/*.whl)[cpu,$*]"
	@touch $@

# PyTorch for the CPU, where PyPI's would bring gigabytes of CUDA along.
$(VENV)/.models: pyproject.toml | $(VENV)/.package
	$(PIP) install --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu \
	  "$$(echo build/wheel/*.whl)[cpu,models]"
	@touch $@

$(OLDEST)/.test: pyproject.toml tests/packaging/oldest.txt | $(VENV)/.package
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip --disable-pip-version-check -q install \
	  -c tests/packaging/oldest.txt "$$(echo build/wheel/*.whl)[cpu,test]"
	@touch $@

# RapidOCR wants opencv-python, which needs a desktop's libraries (libGL). Where they are missing,
# the same release without a user interface takes its place.
$(VENV)/.demo: pyproject.toml | $(VENV)/.package
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
	  { echo "RapidOCR 1.4.4 needs Python below 3.13: make clean demo PYTHON=python3.12"; exit 1; }
	$(PIP) install "$$(echo build/wheel/*.whl)[cpu,demo]"
	$(BIN)/python -c 'import cv2' 2>/dev/null || \
	  { $(PIP) uninstall -y opencv-python opencv-python-headless && \
	    $(PIP) install opencv-python-headless; }
	@touch $@
