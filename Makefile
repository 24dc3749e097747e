# Every target creates the virtual environment it needs; PYTHON selects its interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := PYTHONPATH=tests $(BIN)/python -m bench
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# Tests run in this many processes; `make test WORKERS=0` runs them in one, say for a debugger. Contiguous halves of the
# tests, then work stealing: nearly every shared fixture is made once.
WORKERS ?= $(shell nproc)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all coverage lint bench bench-latency bench-search bench-deployment bench-layers bench-data bench-training bench-recipe bench-geometry bench-camvid bench-ablations gpu-check gpu-wheels docs clean

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

bench: bench-latency bench-search bench-deployment bench-layers bench-data bench-training

bench-latency: $(VENV)/.test
	$(BENCH).latency.run --device cpu --out docs/benchmarks
	$(BENCH).latency.run --device cpu --protocol --out docs/benchmarks
	$(BENCH).latency.operators --device cpu --out docs/benchmarks
	$(BENCH).latency.supernet --out docs/benchmarks

bench-search: $(VENV)/.test
	$(BENCH).search.run --out docs/benchmarks

bench-deployment: $(VENV)/.test
	$(BENCH).deployment.run --out docs/benchmarks

bench-layers: $(VENV)/.test
	$(BENCH).deployment.layers --out docs/benchmarks

bench-data: $(VENV)/.test
	$(BENCH).data.run --out docs/benchmarks

# Steps are compared where glibc keeps freed memory: otherwise their page faults depend on the steps before.
KEEP := MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_MMAP_THRESHOLD_=8000000000
TRAINING := $(BENCH).training.run $(if $(DATA),--data "$(DATA)") --kornia $(VENV)/kornia --out docs/benchmarks
bench-training: $(VENV)/.test $(VENV)/.kornia
	$(TRAINING) --parts views waiting clipping resume
	$(KEEP) $(TRAINING) --parts step

# Hours: `make bench-recipe DATA=DIR`, DIR being CamVid. The same command again resumes the trainings in WORK; with
# KNOWN=FILE, those of a result are not repeated.
WORK ?= runs/recipe
bench-recipe: $(VENV)/.test
	$(BENCH).accuracy.recipe $(if $(DATA),--data "$(DATA)") $(if $(KNOWN),--known "$(KNOWN)") --work $(WORK) --out docs/benchmarks

# About ten hours of a core: `make bench-camvid DATA=DIR`; the same command again resumes. PARTS="random latency" for some.
bench-camvid: $(VENV)/.test
	$(BENCH).accuracy.camvid $(if $(DATA),--data "$(DATA)") $(if $(PARTS),--parts $(PARTS)) --work runs/camvid --out docs/benchmarks

# About eight hours of a core, in the same way.
bench-ablations: $(VENV)/.test
	$(BENCH).accuracy.ablations $(if $(DATA),--data "$(DATA)") $(if $(PARTS),--parts $(PARTS)) --work runs/ablations --out docs/benchmarks

# An hour: `make bench-geometry DATA=DIR`; the same command again resumes.
bench-geometry: $(VENV)/.test
	$(BENCH).accuracy.geometry $(if $(DATA),--data "$(DATA)") --work runs/geometry --out docs/benchmarks

# All parts run, even after a failure; the last line states whether anything ran under TensorRT.
gpu-check: $(VENV)/.gpu
	@failed=0; summary=$(VENV)/.gpu-summary; echo "NOT RUN UNDER TENSORRT: the benchmark aborted, see above" >$$summary; \
	$(BIN)/python tests/gpu/check.py --out $(VENV)/gpu-check || failed=1; \
	$(BIN)/python tests/gpu/checks/page.py $(VENV)/gpu-check/results.jsonl docs/benchmarks || failed=1; \
	$(BIN)/python tests/docs/hardware.py || failed=1; \
	$(BENCH).gpu.deployment --device cuda:0 --out docs/benchmarks \
		--install-log $(VENV)/.gpu-left-out --summary $$summary || failed=1; \
	$(BENCH).latency.run --device cuda:0 --precisions fp32 fp16 --out docs/benchmarks || failed=1; \
	$(BENCH).gpu.search --device cuda:0 --out docs/benchmarks || failed=1; \
	cat $$summary; exit $$failed

# Packages for an offline GPU machine with Python 3.12, in .gpu-site, where tests/gpu/check.py looks for them.
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
	@echo "installing lgc into $(VENV) (once; takes some minutes, torch and ONNX Runtime are large)"
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.run
	@echo "installing the test dependencies into $(VENV)"
	$(PIP) -e ".[test,tensorrt-aot,report]"
	@touch $@

# TensorRT's Python API from the oldest to the newest supported version, without the libraries. If one cannot be installed,
# the marker file is not created, its tests are skipped, and the next call tries again.
$(VENV)/.bindings: tests/profiler/backends/trt/bindings.txt | $(VENV)/bin/python
	@echo "installing TensorRT's Python bindings into $(VENV)/bindings"
	@rm -rf $(VENV)/bindings; failed=0; \
	while read -r package; do \
		$(PIP) --retries 1 --no-deps --target $(VENV)/bindings/$${package#*==} $$package || failed=1; \
	done <$<; \
	[ $$failed = 1 ] || touch $@

# A loader to compare with. If it cannot be installed, the marker file is not created, and the benchmark runs without it.
$(VENV)/.kornia: | $(VENV)/bin/python
	@echo "installing kornia into $(VENV)/kornia"
	@rm -rf $(VENV)/kornia; \
	if $(PIP) --retries 1 --no-deps --target $(VENV)/kornia kornia==0.9.0 kornia-rs==0.2.0; then touch $@; fi

# If TensorRT or pycuda cannot be installed, the marker file is not created, and the next call tries again.
$(VENV)/.gpu: pyproject.toml constraints.txt tests/gpu/install.sh $(VENV)/.test
	@echo "installing TensorRT and pycuda into $(VENV); pycuda is compiled and needs nvcc on PATH or in CUDA_HOME/bin"
	@sh tests/gpu/install.sh $(VENV) "$(PIP)"
