# The developer's whole interface. Everything starts from a bare checkout.
SHELL := /bin/sh
PY := .venv/bin/python
.DEFAULT_GOAL := help
CONFIG ?= serve_config.yaml
.PHONY: help install run deploy test check bench lock lock-programs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile

install: ## uv, virtual environment, every dependency, from nothing
	@scripts/bootstrap

run: install ## fetch weights and data, start everything, say where it is; Ctrl-C ends it; CONFIG=mine.yaml
	@exec $(PY) -m launch --config $(CONFIG)

deploy: install ## apply a changed serve_config.yaml (or CONFIG=) to what `make run` started, without a stop
	@$(PY) -m deployments.config_file $(CONFIG)
	@RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$${GLASSHOUSE_HOME:-$(CURDIR)/var}/run/ray-token" .venv/bin/serve deploy $(CONFIG)

test: check ## the whole test suite
	@scripts/test

check: install ## lint, types, every configuration; builds the telemetry programs the first time (minutes)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@$(PY) -m deployments.config_file serve_config.yaml
	@$(PY) -m launch.backends --validate
	@echo "check: ruff, mypy, serve_config.yaml and otel-collector/ are clean"

bench: install ## the measured table of the README, as text and as JSON
	@exec $(PY) -m bench

lock: ## requirements.in -> requirements.lock
	@scripts/bootstrap --lock

lock-programs: ## versions in otel-collector/.env -> Go modules of the telemetry programs (needs Go)
	@scripts/lock-programs

clean: ## remove the environment; var/ and the cache stay
	@rm -rf .venv .uv *.egg-info .mypy_cache .ruff_cache .pytest_cache
