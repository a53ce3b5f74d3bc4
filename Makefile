# Everything a newcomer needs: `make demo`, `make test`. `make` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Kept even where the environment says otherwise: every command would compile the whole product again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install programs engines demo test lint format bench loop loop-production outage dashboards simulate simulate-ranker simulate-memory lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(STAMP) ## create .venv from the lock file, with the command ltrr in it

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -m tests.system_packages venv
	@echo "creating $(VENV) from requirements.lock (1.3 GB on disk when done; takes a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true # some packages ship files of other Pythons
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## index the sample catalogue (or DATA=DIR) and serve it; TRAFFIC=1: with simulated visitors
	$(BIN)/ltrr demo $(if $(DATA),--data $(DATA)) $(if $(TRAFFIC),--traffic)

programs: ## look for the programs that tests start; root on Debian or Ubuntu gets what is missing
	@$(PYTHON) -m tests.system_packages

engines: programs install ## fetch OpenSearch, too
	@$(BIN)/python -m tests.servers.opensearch

test: engines ## run all tests in three processes (or ARGS="tests/http -x": arguments of pytest)
	$(BIN)/pytest -n 3 --dist loadscope $(ARGS)

lint: install ## formatting, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-logo

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## measure latency per stage, and CPU against the sum of the parts
	$(BIN)/python -m load_tests.latency $(if $(DATA),--data $(DATA))

loop-production: engines ## the same loop on OpenSearch, Redis and Qdrant, with two workers and a learner
	$(BIN)/python -m tests.servers.stack --workers 2 -- $(BIN)/python -m load_tests.loop

outage: engines ## outages of the engines under load
	$(BIN)/python -m load_tests.outage

loop: install ## the complete loop over HTTP: search, click, remember, reject, kill, recover
	$(BIN)/python -m load_tests.loop

simulate: install ## let the service learn from simulated users, on DATA=DIR (OUT=FOLDER)
	$(BIN)/ltrr simulate --data $(DATA) --out $(or $(OUT),simulation)

simulate-ranker: install ## compare rankers trained on clicks and on judgments, on DATA=DIR (OUT=FOLDER)
	$(BIN)/python -m evaluation.studies.ranker --data $(DATA) --out $(or $(OUT),evaluation/ranker)

simulate-memory: install ## measure the value of each part of the click memory, on DATA=DIR (OUT=FOLDER)
	$(BIN)/python -m evaluation.studies.memory --data $(DATA) --out $(or $(OUT),evaluation/memory) $(if $(SEEDS),--seeds $(SEEDS))

dashboards: install ## regenerate the Grafana dashboards
	$(BIN)/python -m deploy.grafana.generate

lock: install ## resolve the lock files again: of everything, and of what the image serves with
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
		--strip-extras --allow-unsafe --extra encoder --extra train --extra evaluate --extra pages --extra tracing --extra dev -o requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --strip-extras \
		--allow-unsafe --extra encoder --extra pages --extra tracing --build-deps-for wheel -c requirements.lock \
		-o requirements-serve.lock pyproject.toml

clean: ## remove the environment and caches (never var/, which holds data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
