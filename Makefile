# Every target sets itself up: it makes .venv where there is none and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(shell find vim_train/ops/csrc build_backend -type f -not -path '*/__pycache__/*')
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train test lint format bench docs clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo; echo '  ARGS="…" is passed on:  make train ARGS="schedule.epochs=2"   make test ARGS="-k scan"'

train: $(INSTALLED) ## Train on the embedded images (2 cores: 2 to 4 minutes after installation)
	@$(BIN)/vim-train $(ARGS)

test: $(INSTALLED) ## Run the tests
	@$(BIN)/python -m pytest $(ARGS)

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

docs: $(INSTALLED) ## Write docs/config.md anew from the schema
	@$(BIN)/python -m vim_train.config.reference > docs/config.md

clean: ## Remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Without a compiler the scan is not built; once there is one, the next make builds it.
COMPILER := $(firstword $(foreach name,c++ g++ clang++,$(shell command -v $(name))))
ifneq ($(COMPILER),)
ifeq ($(shell cat $(INSTALLED) 2>/dev/null),reference)
$(INSTALLED): rebuild
endif
endif
.PHONY: rebuild
rebuild:

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(NATIVE)
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: needs Python 3.10 or newer with venv (Debian: apt install python3-venv), or PYTHON=/path/to/python3"; exit 2; }
	@test -n "$(COMPILER)" || \
	  echo "make: no C++ compiler: installing without the native scan, which is slow; cure: apt install g++ (macOS: xcode-select --install), then make again"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time) …"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@echo $(if $(COMPILER),native,reference) > $@
