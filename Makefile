# Python 3.11 or newer and make are all that a fresh machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Set before the first `make` to choose another build of PyTorch, as in
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

.PHONY: setup demo test test-processes test-slow test-clients check audit docs bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[rtx,openvino,spandrel,media,dev]"
	touch $@

demo: setup
	$(BIN)/paragon-export demo -o demo

# One worker for each core, each with one thread; neighbors in a file share what it prepares.
# Containers often forbid bytecode: every process would then compile this package again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: setup
	$(PYTEST)

# Tests that start processes: crashes, limits of memory and time, access to the network, imports.
test-processes: setup
	$(PYTEST) -m "processes and not slow"

test-slow: setup
	$(BIN)/python -m pytest -m "slow"

# Programs of others, in environments of their own. They need packages of the system:
#   apt-get install chromium libomp5 libvulkan1 mesa-vulkan-drivers
# VapourSynth and Real-ESRGAN-ncnn-vulkan need Python 3.12.
BROWSER := $(VENV)/browser
CLIENTS := $(VENV)/clients
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) python3.12)

$(BROWSER)/ready: tests/browser/requirements.txt
	$(PYTHON) -m venv $(BROWSER)
	$(BROWSER)/bin/python -m pip install --quiet -r tests/browser/requirements.txt
	touch $@

$(CLIENTS)/ready: tests/clients/requirements.txt
	$(PYTHON312) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet -r tests/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps nvidia-pytriton==0.7.0  # for its server alone
	touch $@

test-clients: setup $(BROWSER)/ready $(CLIENTS)/ready
	$(BIN)/python -m pytest -m "clients"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet -c constraints.txt pip-audit pip-licenses
	$(VENV)/audit/bin/python .ci/audit.py $(BIN)/python

docs: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m pip install --quiet onnxslim onnxscript openvino matplotlib
	$(BIN)/python benchmarks/export_time.py
	$(BIN)/python benchmarks/simplifiers.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/rules.py
	$(BIN)/python benchmarks/breakdown.py
	$(BIN)/python benchmarks/int8.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/glyphs.py
	$(BIN)/python benchmarks/sabotage.py
	$(BIN)/python benchmarks/false_alarms.py
	$(BIN)/python benchmarks/plots.py
	$(BIN)/python benchmarks/docs_tables.py

clean:
	rm -rf $(VENV) demo site
