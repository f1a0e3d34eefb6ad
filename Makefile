SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export PYTHONSAFEPATH = 1
PROTOS = $(shell cd proto && find triptych -name '*.proto' | LC_ALL=C sort)

.PHONY: help install demo serve test lint format proto docs soak clean

help:  ## Show what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# torch comes first and alone: with its exact version in place, nothing that follows asks for another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) deploy/check_host.py
	@$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(PIP) torch || { echo "error: the packages cannot be fetched; is the network up, or PIP_INDEX_URL set?" >&2; exit 1; }
	@$(PIP) -e '.[dev]' || { echo "error: the packages cannot be fetched; is the network up?" >&2; exit 1; }
	@$(BIN)/triptych kernels build >/dev/null || true
	@touch $@

install: $(STAMP)  ## Make .venv with everything that the tests and benchmarks need

# Where something has to be installed first, the demo counts "fresh clone to first streamed token" from before that.
demo: export TRIPTYCH_DEMO_STARTED := $(if $(wildcard $(STAMP)),,$(shell date +%s.%N))
demo: $(STAMP)  ## Start 1E1P1D on this machine, stream a chat, read eight digits, shut down
	@$(BIN)/triptych demo

serve: $(STAMP)  ## Start the same cluster and stay up
	@$(BIN)/triptych serve builtin:smollm2-digits --layout 1E1P1D

# Tests that compute side by side; all others start clusters, count seconds, or compute on every core themselves.
SIDE_BY_SIDE = $(addprefix tests/,config core embedding engine experts kernels loading models parallel processing simulator wire)

# The kernels are tested for every instruction set of this CPU, and compiled for all of them beforehand.
test: $(STAMP)  ## Run every test but the long ones
	@$(BIN)/triptych kernels build --isa all >/dev/null 2>&1 || true
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not soak' -n 2 --dist loadfile $(SIDE_BY_SIDE); side=$$?; \
	$(BIN)/python -m pytest -m 'not soak' $(addprefix --ignore=,$(SIDE_BY_SIDE)) && exit $$side

soak: $(STAMP)  ## Run the long tests, with new random inputs every time
	TRIPTYCH_TEST_SEED=fresh $(BIN)/python -m pytest -m soak -o faulthandler_timeout=4000

lint: $(STAMP)  ## Ruff, mypy strict, import walls, proto style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cluster workers kernels deploy
	$(BIN)/lint-imports
	$(BIN)/buf lint

format: $(STAMP)  ## Let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(STAMP)  ## Make the generated modules from the .proto files
	$(BIN)/python -m grpc_tools.protoc -Iproto \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)

docs: $(STAMP)  ## Make docs/configuration.md and its JSON Schema from the settings' types
	$(BIN)/python -m triptych.config.reference docs

clean:  ## Remove the virtual environment and the caches of the tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
