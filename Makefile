# Every target sets itself up: it makes .venv where there is none and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(shell find vim_train/ops/csrc vim_train/data/csrc build_backend -type f -not -path '*/__pycache__/*')
ARGS ?=
# Files of tests side by side; few at a time, for each such process imports torch.
TOGETHER := --numprocesses=auto --maxprocesses=4 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help train test lint format bench gpu-check native-full faults docs clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo; echo '  ARGS="…" is passed on:  make train ARGS="schedule.epochs=2"   make test ARGS="-k scan"'

train: $(INSTALLED) ## Train on the embedded images (2 cores: 2 to 4 minutes after installation)
	@$(BIN)/vim-train $(ARGS)

test: $(INSTALLED) ## Run the tests
	@$(BIN)/python -m pytest $(TOGETHER) $(ARGS)

lint: $(INSTALLED) ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## Put the code into the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED) ## Time the scan and the model on this machine
	@$(BIN)/python benchmarks/scan.py
	@$(BIN)/python benchmarks/model.py

gpu-check: $(INSTALLED) ## Test and time the CUDA library on this machine's GPU
	@$(BIN)/python -c 'import sys; from vim_train.ops.loading import gpu_problem; p = gpu_problem(); \
	  sys.exit(f"make gpu-check: {p}; it tests and times the CUDA library on one" if p else 0)'
	@$(BIN)/python -m pytest -m cuda $(ARGS)
	@$(BIN)/python benchmarks/gpu.py

native-full: $(INSTALLED) ## Run all tests of the CUDA kernels that need no GPU, the long ones too
	@$(BIN)/python -m pytest $(TOGETHER) tests/native -m "full or not full" $(ARGS)

faults: $(INSTALLED) ## Kill runs, break disks and checkpoints, and count what came of it (parts need root)
	@$(BIN)/python -m pytest $(TOGETHER) tests/faults tests/engine/test_checkpoint_killed.py -m "full or not full" $(ARGS)
	@$(BIN)/python -m pytest $(TOGETHER) tests/engine -m full --ignore=tests/engine/test_checkpoint_killed.py $(ARGS)

docs: $(INSTALLED) ## Write docs/config.md anew from the schema
	@$(BIN)/python -m vim_train.config.reference > docs/config.md

clean: ## Remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# What the libraries are built with. Where one of these has come, gone or changed, the next make installs again.
TOOLS := $(strip $(foreach tool,c++ g++ clang++ nvcc,$(shell command -v $(tool))) $(wildcard /usr/local/cuda/bin/nvcc) \
  $(CUDACXX) $(VIM_TRAIN_CUDA))
ifneq ($(TOOLS),$(shell cat $(INSTALLED) 2>/dev/null))
$(INSTALLED): rebuild
endif
.PHONY: rebuild
rebuild:

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(NATIVE)
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: needs Python 3.10 or newer with venv (Debian: apt install python3-venv), or PYTHON=/path/to/python3"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time) …"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@sed 's/^/installed: /' $(VENV)/lib/python*/site-packages/vim_train/ops/_build.txt
	@echo '$(TOOLS)' > $@
