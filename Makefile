# The developer's whole interface. Everything starts from a bare checkout.
SHELL := /bin/sh
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help install run test check bench lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

install: ## uv, virtual environment, every dependency, from nothing
	@scripts/bootstrap

run: install ## fetch weights and data, start everything, say where it is; Ctrl-C ends it
	@exec $(PY) -m launch

test: check ## the whole test suite
	@scripts/test

check: install ## lint, types, configuration
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@$(PY) -m deployments.config_file serve_config.yaml
	@echo "check: ruff, mypy and serve_config.yaml are clean"

bench: install ## the measured table of the README, as text and as JSON
	@exec $(PY) -m bench

lock: ## requirements.in -> requirements.lock
	@scripts/bootstrap --lock

clean: ## remove the environment; var/ and the cache stay
	@rm -rf .venv .uv *.egg-info .mypy_cache .ruff_cache .pytest_cache
