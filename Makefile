# Every target makes the virtual environment it needs; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# Tests run in this many processes; `make test WORKERS=0` runs them in one, say for a debugger. Contiguous halves of the
# tests, then work stealing: nearly every shared fixture is made once.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all coverage lint bench bench-latency bench-search bench-deployment gpu-check gpu-wheels docs clean

demo: $(VENV)/.run
	$(BIN)/lgc-demo --out demo-run

test: $(VENV)/.test $(VENV)/.bindings
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.test $(VENV)/.bindings
	$(PYTEST)

coverage: $(VENV)/.test $(VENV)/.bindings
	$(BIN)/python tests/bench/suite.py --out docs/benchmarks

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

bench: bench-latency bench-search bench-deployment

bench-latency: $(VENV)/.test
	$(BIN)/python tests/bench/run.py --device cpu --out docs/benchmarks
	$(BIN)/python tests/bench/run.py --device cpu --protocol --out docs/benchmarks

bench-search: $(VENV)/.test
	$(BIN)/python tests/bench/search.py --out docs/benchmarks

bench-deployment: $(VENV)/.test
	$(BIN)/python tests/bench/deployment.py --out docs/benchmarks

# All parts are tried, whatever becomes of the others; the last line says whether anything was run under TensorRT.
gpu-check: $(VENV)/.gpu
	@failed=0; told=$(VENV)/.gpu-told; echo "NOT RUN UNDER TENSORRT: the benchmark broke off, see above" >$$told; \
	$(BIN)/python tests/gpu/check.py --out $(VENV)/gpu-check || failed=1; \
	$(BIN)/python tests/gpu/checks/page.py $(VENV)/gpu-check/results.jsonl docs/benchmarks || failed=1; \
	$(BIN)/python tests/docs/hardware.py || failed=1; \
	$(BIN)/python tests/bench/gpudeployment.py --device cuda:0 --out docs/benchmarks \
		--install-words $(VENV)/.gpu-left-out --told $$told || failed=1; \
	$(BIN)/python tests/bench/run.py --device cuda:0 --precisions fp32 fp16 --out docs/benchmarks || failed=1; \
	$(BIN)/python tests/bench/gpusearch.py --device cuda:0 --out docs/benchmarks || failed=1; \
	cat $$told; exit $$failed

# What an offline GPU machine with Python 3.12 lacks, in .gpu-site: tests/gpu/check.py finds it there.
gpu-wheels: $(VENV)/.run
	$(BIN)/python tests/gpu/wheels.py

docs: $(VENV)/.test
	$(BIN)/python tests/docs/reference.py --write docs/cli.md
	$(BIN)/python tests/docs/hardware.py

clean:
	rm -rf $(VENV) .gpu-site build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing lgc into $(VENV) (once; some minutes, torch and ONNX Runtime are large)"
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.run
	@echo "installing what the tests need into $(VENV)"
	$(PIP) -e ".[test,tensorrt-aot,report]"
	@touch $@

# TensorRT's Python API, from the oldest version served to the newest, without the libraries. Where one cannot be had, the
# file is not made, its tests are skipped, and the next call tries again.
$(VENV)/.bindings: tests/profiler/backends/trt/bindings.txt | $(VENV)/bin/python
	@echo "installing TensorRT's Python bindings into $(VENV)/bindings"
	@rm -rf $(VENV)/bindings; failed=0; \
	while read -r package; do \
		$(PIP) --retries 1 --no-deps --target $(VENV)/bindings/$${package#*==} $$package || failed=1; \
	done <$<; \
	[ $$failed = 1 ] || touch $@

# Where TensorRT or pycuda cannot be installed, the file is not made, the next call tries again, and this one goes on.
$(VENV)/.gpu: pyproject.toml constraints.txt tests/gpu/install.sh $(VENV)/.test
	@echo "installing TensorRT and pycuda into $(VENV): pycuda is compiled, nvcc has to be on PATH or in CUDA_HOME/bin"
	@sh tests/gpu/install.sh $(VENV) "$(PIP)"
