# Two commands do all set-up: `make up` runs Teehouse, `make test` tests it. Both need Python 3.11 and make.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DIR ?= $(HOME)/.teehouse
PORT ?= 8090
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: setup up test test-js check bench cover proto contracts lock format clean

$(VENV)/.runtime: requirements/runtime.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what Teehouse runs on"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/runtime.txt
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  echo "$(CURDIR)/src" > "$$site/teehouse-src.pth" && \
	  printf '#!%s\nimport sys\nfrom teehouse.stack.main import run\nsys.exit(run())\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/teehouse && \
	  chmod +x $(BIN)/teehouse
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@echo "installing what its tests need"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/dev.txt
	@touch $@

$(VENV)/.clients: $(VENV)/.dev requirements/clients.txt  # without dependencies: one of them does not build (clients.in)
	@$(PIP) install --require-hashes --only-binary :all: --no-deps -r requirements/clients.txt
	@touch $@

$(VENV)-vyper/.done: requirements/vyper.txt  # the contracts' compiler wants older releases of what Teehouse uses
	@test -x $(VENV)-vyper/bin/python || $(PYTHON) -m venv $(VENV)-vyper
	@echo "installing the contracts' compiler"
	@$(VENV)-vyper/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --only-binary :all: -r requirements/vyper.txt
	@touch $@

setup: $(VENV)/.dev $(VENV)/.clients $(VENV)-vyper/.done  ## everything a developer needs

up: $(VENV)/.runtime  ## run the emulated cloud here; DIR, PORT and CHAIN=anvil may be given
	@exec $(BIN)/teehouse up --dir "$(DIR)" --port "$(PORT)" $(if $(CHAIN),--chain "$(CHAIN)") $(if $(CHAIN_ID),--chain-id "$(CHAIN_ID)")

test: setup test-js  ## all tests; a part that the machine lacks is skipped with its reason
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest  # hundreds of processes: each would compile all modules anew

test-js: tests/functional/js/package-lock.json  ## the official JavaScript clients, where npm is there
	@if command -v npm >/dev/null; then \
	  cmp -s $< tests/functional/js/node_modules/.lock || { cd tests/functional/js && npm ci --silent --ignore-scripts && cp package-lock.json node_modules/.lock; }; \
	else echo "npm is not installed: the JavaScript clients' tests will be skipped"; fi

check: setup  ## ruff, mypy strict, import contracts, generated code and contracts
	@$(BIN)/ruff check src tests bench
	@$(BIN)/ruff format --check src tests bench
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.sizes
	@$(BIN)/python -m tools.proto --check
	@$(BIN)/python -m tools.contracts --check

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix src tests bench tools
	@$(BIN)/ruff format src tests bench tools

proto: $(VENV)/.dev  ## generate wire/*_pb2.py from the .proto files
	@$(BIN)/python -m tools.proto

contracts: setup  ## compile contracts/*.vy into the package
	@$(BIN)/python -m tools.contracts

cover: $(VENV)/.dev  ## branch coverage, with the floors that CI holds
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m tools.coverage

bench: $(VENV)/.dev  ## measure speed and memory; writes docs/performance.md (python -m bench.cloud: the control plane alone)
	@$(BIN)/python -m bench

lock:  ## resolve requirements/*.txt anew; needs uv on PATH
	uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements/runtime.txt
	uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt
	uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate requirements/vyper.in -o requirements/vyper.txt
	uv pip compile -q --no-deps --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate requirements/clients.in -o requirements/clients.txt

clean:
	rm -rf $(VENV) $(VENV)-vyper .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build dist tests/functional/js/node_modules
