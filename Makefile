# The commands of this project. `make accept` and `make test` install what they need by themselves.

CACHE ?= $(or $(PHOENIX_CACHE),$(HOME)/.cache/phoenix-920)
PYTHON ?= python3
KEYS ?= $(HOME)/.config/phoenix-920
KEY := $(shell { $(PYTHON) --version; cat requirements-dev.txt; } | sha256sum | cut -c1-12)
VENV := $(CACHE)/venv-$(KEY)
PYTEST := $(VENV)/bin/python -m pytest
LAB := $(VENV)/bin/python -m lab
# One more than there are cores, as the fast tests wait for a third of their time
WORKERS := $(shell expr $$(nproc) + 1)

unexport PYTHONDONTWRITEBYTECODE  # the tests start the suite some hundred times; each would compile it again

.PHONY: doctor accept test test-fast test-lab faults kills model mutations warm-start fingerprints samples bench lint root lab-tools test-tools lab-up lab-down lab-status lab-reset keys lock wheelhouse test-lowest test-newest test-py313 help

help: ## show this list
	@awk -F': .*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

doctor: ## show what this machine can run, and what is missing for the rest
	@$(PYTHON) -m lab.doctor

accept: lab-up $(VENV)/ready ## build and prove template 920 in the lab
	$(PYTEST) tests_920 @lab/options
	@echo "README's commands run in the lab with its options: venv/bin/pytest tests_920 @lab/options --verify"

test: lint test-fast test-lab ## run all tests (half an hour)

test-fast: test-tools $(VENV)/ready ## run the tests that need neither root nor the lab
	$(PYTEST) tests -m "not lab" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# four: a build in the lab takes a third to a half of a core, and waits otherwise
test-lab: test-tools $(VENV)/ready ## run the tests that build for real, in four labs of their own
	$(PYTEST) tests -m lab --numprocesses 4 --dist loadfile --no-loadscope-reorder

# Both resume: ARGS=--background detaches, --status shows the progress, --stop ends it, "--sample 20 --seed 7" runs
# 20 minutes of trials, whose results go into no table.
faults: test-tools $(VENV)/ready ## inject every fault by itself: docs/faults.md (30 minutes)
	$(VENV)/bin/python -m tests.faults $(ARGS) $(if $(findstring --sample,$(ARGS)),,--write docs/faults.md)

model: $(VENV)/ready ## try 5,000 random histories on a modelled node (5 minutes)
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/test_node_model.py

mutations: $(VENV)/ready ## spoil each fact of each check in nine ways: docs/mutations.md (some minutes)
	$(VENV)/bin/python -m tests.mutations docs/mutations.md

kills: test-tools $(VENV)/ready ## end runs by signals, kill -9 and loss of power: docs/kills.md (1 hour)
	$(VENV)/bin/python -m tests.faults.kills $(ARGS) $(if $(findstring --sample,$(ARGS)),,--write docs/kills.md)

warm-start: lab-tools $(VENV)/ready ## measure the start of clones with caches: docs/warm-start.md (20 minutes)
	$(VENV)/bin/python -m bench.warm_start --write docs/warm-start.md

fingerprints: lab-tools $(VENV)/ready ## measure what a fingerprint of the answers finds: docs/fingerprint.md (30 minutes)
	$(VENV)/bin/python -m bench.fingerprints --write docs/fingerprint.md

samples: lab-tools test-tools $(VENV)/ready ## renew the sample reports and README's picture, in a lab of their own
	$(VENV)/bin/python -m tests.lab.samples

bench: lab-tools $(VENV)/ready ## measure the speed of the suite: docs/bench.md (30 minutes)
	@lab/tools bench
	$(VENV)/bin/python -m bench --write docs/bench.md

lint: $(VENV)/ready ## run ruff, mypy, shellcheck, and check the workflows' schemas
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy fixtures phoenix_920 tests_920 lab tests bench conftest.py
	$(VENV)/bin/shellcheck *.sh bench/*.sh .ci/* lab/tools lab/node-init lab/list-machines tests/debian13
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.gitlab-ci .gitlab-ci.yml

lab-tools: ## install the packages that the lab needs
	@lab/tools

test-tools: ## install the packages that the tests need as well
	@lab/tools tests

root: # before anything is made
	@[ "$$(id -u)" = 0 ] || { echo "this needs root, for namespaces, mounts and containers; nothing was made: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

lab-up: root lab-tools $(VENV)/ready ## start the lab; GPU=host gives its containers this machine's GPUs
	$(LAB) --gpu $(or $(GPU),simulated) $(if $(TAKE),--take-over) up
	@[ -e venv ] || ln -s $(VENV) venv  # so that README's commands run here as they are printed

lab-down: $(VENV)/ready ## remove the lab completely
	$(LAB) down

lab-status: $(VENV)/ready ## report whether the lab is up
	@$(LAB) status || true  # which ends with 3 while it is down

lab-reset: root lab-tools $(VENV)/ready ## start again with a fresh lab
	$(LAB) --gpu $(or $(GPU),simulated) reset

keys: ## create a key pair for signatures: -o signing_key=~/.config/phoenix-920/phoenix-920.pem
	@[ ! -e $(KEYS)/phoenix-920.pem ] || { echo "$(KEYS)/phoenix-920.pem exists; it is not overwritten" >&2; exit 1; }
	mkdir -p $(KEYS)
	umask 077 && openssl genpkey -algorithm ed25519 -out $(KEYS)/phoenix-920.pem
	openssl pkey -in $(KEYS)/phoenix-920.pem -pubout -out $(KEYS)/phoenix-920.pub.pem

# root only for the third: a Debian 13 in a folder, with its Python 3.13
test-lowest test-newest: test-%: $(VENV)/ready
	rm -rf $(CACHE)/range-$*
	mkdir -p $(CACHE)/range-$*
	$(VENV)/bin/uv pip compile --quiet --extra dev --resolution $(if $(filter lowest,$*),lowest-direct,highest) \
	  --output-file $(CACHE)/range-$*/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(CACHE)/range-$*/venv
	$(CACHE)/range-$*/venv/bin/pip install --quiet --disable-pip-version-check -r $(CACHE)/range-$*/requirements.txt
	$(CACHE)/range-$*/venv/bin/python -m pytest tests -m "not lab"

test-py313: test-tools ## run the fast tests with Python 3.13, in a Debian 13
	tests/debian13

COMPILE = $(VENV)/bin/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 --python-platform linux \
  --no-annotate --custom-compile-command 'make lock' pyproject.toml

lock: $(VENV)/ready ## rewrite both locks with the newest versions that pyproject.toml allows
	$(COMPILE) --extra sign --output-file requirements.txt
	$(COMPILE) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

wheelhouse: $(VENV)/ready ## make dist/phoenix-920-*.tar, which installs the suite where there is no network
	PATH=$(VENV)/bin:$$PATH .ci/wheelhouse dist

# Its name is made of what is in it, so it is never out of date, and never remade while someone uses it.
# Tools first: a fresh Debian has no python3-venv.
$(VENV)/ready:
	@lab/tools
	rm -rf $(VENV)
	mkdir -p $(CACHE)
	$(PYTHON) -m venv $(VENV)
	@echo "installing $$(grep -c == requirements-dev.txt) Python packages into $(VENV): about a minute, once" >&2
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@
