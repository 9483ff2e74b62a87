# The commands of this project. `make accept` and `make test` install what they need by themselves.

CACHE ?= $(or $(PHOENIX_CACHE),$(HOME)/.cache/phoenix-920)
PYTHON ?= python3
KEY := $(shell { $(PYTHON) --version; cat requirements.txt; } | sha256sum | cut -c1-12)
VENV := $(CACHE)/venv-$(KEY)
PYTEST := $(VENV)/bin/python -m pytest
LAB := $(VENV)/bin/python -m lab

.PHONY: accept test test-fast test-lab test-tools samples lint lab-tools lab-up lab-down lab-status lab-reset lock help

help: ## this list
	@awk -F': .*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

accept: lab-up $(VENV)/ready ## build template 920 in the lab and leave the report
	$(PYTEST) tests_920 @lab/options

test: lint test-fast test-lab ## all tests

test-fast: test-tools $(VENV)/ready ## the tests that need neither root nor the lab
	$(PYTEST) tests -m "not lab"

test-lab: lab-tools $(VENV)/ready ## the tests that build for real, in a lab of their own
	$(PYTEST) tests -m lab

samples: lab-tools test-tools $(VENV)/ready ## make the sample reports and their picture anew, in a lab of their own
	$(VENV)/bin/python -m tests.lab.samples

lint: $(VENV)/ready ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy fixtures tests_920 lab tests conftest.py

lab-tools: ## install what the lab needs of Debian or Ubuntu
	@lab/tools

test-tools: ## install the browser that the tests of the report need
	@tests/tools

lab-up: lab-tools $(VENV)/ready ## start the lab
	$(LAB) up

lab-down: $(VENV)/ready ## remove the lab, all of it
	$(LAB) down

lab-status: $(VENV)/ready ## say whether the lab is up
	$(LAB) status

lab-reset: lab-tools $(VENV)/ready ## a fresh lab
	$(LAB) reset

lock: ## write requirements.txt anew with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv $(CACHE)/lock
	$(CACHE)/lock/bin/pip install --quiet --upgrade '.[dev]'
	{ head -1 requirements.txt; $(CACHE)/lock/bin/pip freeze | grep -v '^phoenix-920'; } > requirements.new
	mv requirements.new requirements.txt
	rm -r $(CACHE)/lock

# tools first: a fresh Debian has no python3-venv
$(VENV)/ready: requirements.txt
	@lab/tools
	rm -rf $(VENV)
	mkdir -p $(CACHE)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@
