# make demo: the main job on this machine.  make test: everything that guards daily work.  Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM ?= false
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help setup demo test test-all check rails-fit rails-check bench-demo bench-speed bench-scale bench-algorithms bench-robust bench-wire bench-privacy \
  bench-secure bench-hotspots bench-deid bench-safety bench-confidence bench-network bench-serve bench-agent bench-audit bench-harness \
  chaos plots picture docs format clean browser
help:
	@echo "make setup     build $(VENV) with every extra that installs here"
	@echo "make demo      four hospitals fine-tune a real model, then answer a question (no GPU, hub or server)"
	@echo "make test      the tests that guard daily work (15 minutes at most on two cores)"
	@echo "make test-all  those, and the slow ones: killed runs, every documented command"
	@echo "make check     ruff, mypy, import direction"
	@echo "make bench-demo  the demo with its references: benchmarks/results/demo.json, docs/demo.svg"
	@echo "make bench-speed make bench-scale  the engine against a peer, and with more hospitals: benchmarks/results/"
	@echo "make bench-algorithms  every federated method, and every reference, at its best learning rate"
	@echo "make bench-robust make bench-wire  every rule under every attack; every encoding of what travels"
	@echo "make bench-privacy  loss against epsilon, the time noise costs, attacks with and without it"
	@echo "make bench-safety  what the guardrails catch, and what they stop that they should not"
	@echo "make rails-fit make rails-check  fit the rails' learned scores to the cases; judge them on cases they have not seen"
	@echo "make bench-confidence  how true the stated confidence is, on held-out questions that no fit has seen"
	@echo "make bench-hotspots  where the engine spends its time"
	@echo "make bench-secure  what the secure sum costs a hospital and the server, against the plain sum"
	@echo "make bench-deid  what de-identification catches, misses and costs"
	@echo "make bench-serve  answers a second by 1, 8 and 32 clients, and what the server costs over the bare model"
	@echo "make bench-agent  the coordinator agent against FedAvg and every robust rule, with three hospitals that give trouble"
	@echo "make bench-audit  ten thousand edits of a run's audit log, by anyone and by its owner"
	@echo "make bench-harness  our exams against lm-evaluation-harness on the same 200 questions"
	@echo "make bench-network  what a real federation costs beside its trainings"
	@echo "make chaos     seeded faults over a real federation's runs, every process of it killed"
	@echo "make plots     draw the results: docs/algorithms.svg, robust.svg, wire.svg, privacy.svg"
	@echo "make picture   docs/page.png: the page of the newest run, as the browser test sees it"
	@echo "make docs      docs/cli.md, every command with its options, from the program itself"
	@echo "make notebooks execute the notebooks and keep what they show"
	@echo "make clean     remove $(VENV) and caches; runs and data stay"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/fedmed run --recipe cpu_demo
	$(BIN)/fedmed ask "What is hypertrophic cardiomyopathy?"

# The browser test needs Chromium: installed by name where we may, else that one test fails and says so.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	  || echo "chromium is missing and cannot be installed without root: apt-get install chromium"

test: $(STAMP) browser
	$(PYTEST) -m "not slow" tests

test-all: $(STAMP) browser check
	$(PYTEST) --hypothesis-profile=explore tests

bench-demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py

# The peer, Flower's simulation, lives in an environment of its own (its pins and ours do not resolve together); without
# it, or without its recipe, benchmarks/peer.py stands in.
PEER := output-models/bench-peer-venv
RECIPE := $(wildcard ../shared/bench/peer_flower.py)
$(PEER)/.done:
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet torch==2.13.0 transformers peft datasets accelerate 'flwr[simulation]==1.41.0'
	@touch $@

bench-speed: $(STAMP)
	-$(if $(RECIPE),$(MAKE) $(PEER)/.done)
	$(BIN)/python benchmarks/speed.py

bench-scale: $(STAMP)
	$(BIN)/python benchmarks/scale.py

# lm-evaluation-harness, too, lives in an environment of its own.
HARNESS := output-models/bench-harness-venv
$(HARNESS)/.done:
	$(PYTHON) -m venv $(HARNESS)
	$(HARNESS)/bin/python -m pip install --quiet lm-eval==0.4.13 torch==2.13.0 transformers accelerate peft
	@touch $@

bench-harness: $(STAMP) $(HARNESS)/.done
	$(BIN)/python benchmarks/harness.py --python $(HARNESS)/bin/python

# Each finished run is kept under output-models/bench-cache, so a bench that was cut off goes on.
bench-algorithms bench-robust bench-wire bench-privacy bench-secure bench-hotspots bench-deid bench-safety bench-confidence bench-network bench-serve bench-audit bench-agent: bench-%: $(STAMP)
	$(BIN)/python benchmarks/$*.py

# From the cases in tests/cases/safety, but for the unread half, to src/fedmed/safety/rules/learned.safetensors.
rails-fit: $(STAMP)
	$(BIN)/python benchmarks/rails_fit.py

rails-check: $(STAMP)
	$(BIN)/python benchmarks/rails_check.py

chaos: $(STAMP)
	$(BIN)/python benchmarks/chaos.py

picture: $(STAMP) browser
	FEDMED_PICTURE=docs/page.png $(BIN)/python -m pytest -q tests/browser/test_page.py -k picture

docs: $(STAMP)
	$(BIN)/python tools/cli_reference.py

.PHONY: notebooks
notebooks: $(STAMP)
	$(BIN)/python tools/notebooks.py

plots: $(STAMP)
	$(BIN)/python benchmarks/plots.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
