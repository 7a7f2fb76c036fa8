# keepstate: every target runs in the foreground and fails when its work fails. `make help` lists them.
# Thin on purpose: what a target does lives in the keepstate command it calls.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CORE    = .venv/bin/python
RUN     = .venv/bin/keepstate
NOTHINK ?= true
export NOTHINK

.DEFAULT_GOAL := help

# --- set-up -----------------------------------------------------------------------------------------------------

# Each stamp is written last: an interrupted install is redone. PYTHON may be that of an activated .venv, which goes.
.venv/.locked: locks/core.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "keepstate needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	python="$$($(PYTHON) -c 'import sys; print(sys._base_executable)')" && rm -rf .venv && "$$python" -m venv .venv
	$(CORE) -m pip install -q --disable-pip-version-check --require-hashes -r locks/core.txt
	touch $@
.venv/.installed: .venv/.locked pyproject.toml
	$(CORE) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# What tests and lint need beside the core (locks/dev.txt holds the core too, at the same versions).
.venv/.installed-dev: .venv/.installed locks/dev.txt
	$(CORE) -m pip install -q --disable-pip-version-check --require-hashes -r locks/dev.txt
	touch $@

.PHONY: setup setup-dev
setup: .venv/.installed ## the core environment (.venv)
setup-dev: .venv/.installed-dev ## the core environment with the tools of tests and lint

# A browser that is there is taken; a system's package brings the libraries that Playwright's own build may lack.
.venv/.installed-browser: .venv/.installed-dev locks/browser.txt
	$(CORE) -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r locks/browser.txt
	@which chromium || which chromium-browser || which google-chrome || which google-chrome-stable || \
		if [ "$$(id -u)" = 0 ] && which apt-get; then apt-get update -q && apt-get install -q -y chromium; \
		else $(CORE) -m playwright install chromium; fi
	touch $@
.PHONY: setup-browser
setup-browser: .venv/.installed-browser ## what tests in a real browser need: its driver, and Chromium where none is found

# What builds the site, in the core environment too: its pages tell of the commands that are there.
.venv/.installed-docs: .venv/.installed-dev locks/docs.txt
	$(CORE) -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r locks/docs.txt
	touch $@

.venv/.installed-ray: .venv/.installed-dev locks/ray.txt
	$(RUN) setup ray
	touch $@

.PHONY: setup-ray setup-train setup-serve
setup-ray: .venv/.installed-ray ## Ray, for more than one machine, in the core environment
setup-train: setup ## the training environment (.venv-train: Axolotl)
	$(RUN) setup train
setup-serve: setup ## the serving environment (.venv-serve: vLLM)
	$(RUN) setup serve

# --- the laptop loop --------------------------------------------------------------------------------------------

.PHONY: demo doctor test test-core test-browser test-ray test-loop test-current lint docs audit
demo: setup ## the whole loop on this machine: tasks to report, no GPU needed
	$(RUN) demo
doctor: setup ## what this machine can do, what is missing and the command that mends it
	$(RUN) doctor
test: test-core test-browser test-ray test-loop ## every test, with the set-up it needs
test-core: setup-dev ## tests of the core environment (five minutes)
	$(CORE) -m pytest -m "not e2e and not train_env and not serve_env and not gpu and not browser and not ray"
# Half of a page is what a browser makes of it.
test-browser: setup-browser ## tests in a real browser (half a minute)
	$(CORE) -m pytest -n 0 -m browser
test-ray: setup-ray ## tests on clusters of several nodes on this machine (a minute)
	$(CORE) -m pytest -n 0 -m ray tests/bench/test_cluster.py
# Two modules at a time, of 4 to 5 GiB each: mostly they load packages on one processor. Threads of two trainings that
# share processors wait for each other, so one thread each.
test-loop: setup-dev setup-train setup-serve ## tests that train and serve for real
	OMP_NUM_THREADS=1 $(CORE) -m pytest -n 2 --dist loadscope -m "e2e or train_env or serve_env"
# The same with the current engines, in a home of their own: what CI, with its 25 minutes, leaves to the weekly job.
CURRENT = KEEPSTATE_HOME="$(CURDIR)/.venv-current"
test-current: setup-dev ## the same tests of training and serving with the current engines (setup --engines current)
	$(CURRENT) $(RUN) setup train serve model --engines current
	$(CURRENT) OMP_NUM_THREADS=1 $(CORE) -m pytest -n 2 --dist loadscope -m "e2e or train_env or serve_env"
lint: setup-dev ## ruff and mypy
	$(CORE) -m ruff check .
	$(CORE) -m ruff format --check .
	$(CORE) -m mypy
.venv-audit/.installed: locks/audit.txt
	rm -rf .venv-audit && $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/audit.txt
	touch $@
audit: .venv-audit/.installed ## known advisories of every locked package: locks/advisories.md
	.venv-audit/bin/python locks/audit.py
docs: .venv/.installed-docs ## the site, built strictly: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(CORE) -m mkdocs build -q

# --- tasks and traces -------------------------------------------------------------------------------------------

.PHONY: gen-tasks-easy gen-tasks-medium
gen-tasks-easy: setup ## 1,000 training tasks and 100 held-out ones, easy
	$(RUN) tasks generate --difficulty easy --count 1000 --seed-start 0 --out data/tasks/knapsack-easy-train
	$(RUN) tasks generate --config train/assets/task_configs/easy_100.json --out data/tasks/knapsack-easy-eval
gen-tasks-medium: setup ## 100 held-out tasks, medium
	$(RUN) tasks generate --config train/assets/task_configs/medium_100.json --out data/tasks/knapsack-medium-eval

TRACES = traces-persistent traces-forget traces-react
.PHONY: $(TRACES)
data/tasks/knapsack-easy-train: | setup
	@$(MAKE) --no-print-directory gen-tasks-easy
$(TRACES): traces-%: setup | data/tasks/knapsack-easy-train ## the scripted teacher on the training tasks, in one runtime
	$(RUN) traces collect --tasks data/tasks/knapsack-easy-train --runtime $* --out data/traces

# --- training, serving, benchmarks: these need a GPU ------------------------------------------------------------

# Of several runtimes: the script of the others makes the data of one.
MIX ?= persistent,forget
.PHONY: train-mixed
train-mixed: setup ## Qwen3-8B LoRA on the traces of several runtimes (MIX=persistent,forget)
	$(RUN) dataset build --mix $(MIX) --tokenizer qwen3
	$(RUN) dataset check data/datasets/mixed
	$(RUN) train mixed $(ARGS)

TRAIN = train-persistent train-forget train-react
.PHONY: $(TRAIN)
$(TRAIN): train-%: setup ## Qwen3-8B LoRA on the traces of one runtime (options: ARGS="--profile memory")
	$(CORE) train/qwen3_8b_axolotl.py --base-config train/configs/axolotl_qwen3_8b_$*_a100.yaml --trace-root data/traces/$* $(ARGS)

.PHONY: serve serve-lora serve-all
serve: setup ## base model (bf16, 40k context, thinking off; options: ARGS="--base nf4-dequantised")
	$(RUN) serve $(ARGS)
serve-lora: setup ## base model and one adapter: make serve-lora LORA=out/qwen3-8b-persistent-a100
	@test -n "$(LORA)" || { echo "error: LORA is not set" >&2; echo "hint:  make serve-lora LORA=out/qwen3-8b-persistent-a100" >&2; exit 2; }
	$(RUN) serve --lora "$(LORA)" $(ARGS)
serve-all: setup ## base model and the three adapters on one server
	$(RUN) serve --lora out/qwen3-8b-persistent-a100 --lora out/qwen3-8b-forget-a100 --lora out/qwen3-8b-react-a100 $(ARGS)

BENCH = bench-easy-base bench-easy-lora bench-med-base bench-med-lora \
	bench-forget-easy-base bench-forget-easy-lora bench-forget-med-base bench-forget-med-lora \
	bench-react-easy-base bench-react-easy-lora bench-react-med-base bench-react-med-lora \
	bench-cross-plora-reset-easy bench-cross-plora-reset-med \
	bench-cross-flora-persist-easy bench-cross-flora-persist-med
.PHONY: $(BENCH) bench-all report
$(BENCH): setup ## one cell against the running server
	$(RUN) bench run train/assets/benchmark_configs/$@.yaml
bench-all: setup ## all 16 cells at once against one server (make serve-all)
	$(RUN) bench run $(BENCH:%=train/assets/benchmark_configs/%.yaml)
report: setup ## tables, plots and HTML of the benchmark results
	$(RUN) report runs/bench

STUDY = benchmarks/gpu/study.py
.PHONY: reproduce-study reproduce-study-laptop
reproduce-study: setup-train setup-serve ## the study of docs/study.md (STUDY_ARGS="--family navigation")
	$(CORE) $(STUDY) $(STUDY_ARGS)
reproduce-study-laptop: setup-train setup-serve ## the same with its sizes cut, on two cores (an hour to two and a half)
	$(CORE) $(STUDY) --size laptop $(STUDY_ARGS)

# --- help -------------------------------------------------------------------------------------------------------

.PHONY: help clean
help: ## this list
	@python3 -m keepstate.stages
	@echo
	@awk -F':.*## ' '/^[a-z$$].*:.*## / {name = $$1; sub(/^\$$\(TRACES\)/, "traces-persistent|forget|react", name); \
		sub(/^\$$\(TRAIN\)/, "train-persistent|forget|react", name); sub(/^\$$\(BENCH\)/, "bench-...", name); \
		printf "  %-32s %s\n", name, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  bench-... is one of:"; printf '    %s\n' $(BENCH)
clean: ## remove caches (environments, models and results stay)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
