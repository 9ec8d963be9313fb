# What to do with a checkout. `make help` lists it; `make run` needs nothing but make, git and Python 3.11.

PYTHON ?= python3
UV_VERSION := 0.13.9
PY := .venv/bin/python
UV := .venv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11

comma := ,

# gRPC's fork handlers crash a child now and then; nothing here forks without an exec.
export GRPC_ENABLE_FORK_SUPPORT := 0
export PYTHONPATH := $(CURDIR):$(CURDIR)/build/gen:$(CURDIR)/sdk

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run demo seed cli web screenshots test again test-long alerts coverage chaos volume bench bench-speech bench-edge fuzz mutation lint lock clean image image-test cluster-test

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/requirements.stamp ## Make ready: Python environment, servers, generated contracts
	@$(PY) -m dev setup

run: .venv/requirements.stamp ## Run the whole platform here until Ctrl-C (PORT=8000)
	@$(PY) -m dev run

demo: .venv/requirements.stamp ## Speak a recorded meeting into the platform; show captions, minutes, tasks
	@$(PY) -m dev demo

seed: .venv/requirements.stamp ## Make the demo account and its sample meeting on the running platform
	@$(PY) -m dev seed

cli: .venv/requirements.stamp ## Install the `verbatim` command from sdk/ into .venv/bin
	$(UV) pip install --quiet --python $(PY) --no-deps --reinstall-package verbatim-client ./sdk
	@echo "  · .venv/bin/verbatim --help"

web: web/node_modules/.package-lock.json ## Build the page from web/ into the gateway's static files (needs Node 20.19)
	cd web && npm run --silent build

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

screenshots: setup-dev ## Take the pictures of docs/images from the page in a real browser
	VERBATIM_SCREENSHOTS=docs/images $(PY) -m pytest tests/web/test_screenshots.py --numprocesses 0

# Files that start platforms come first: the many small ones fill up what they leave.
PYTEST := $(PY) -m pytest --numprocesses $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder

test: setup-dev ## Run every test that needs no cluster (a slice of the long runs)
	@$(PYTEST)

again: setup-dev ## Run the tests that failed last once more, one by one; at most three
	@$(PY) -m tests.again

test-long: setup-dev ## Run the tests that `make test` leaves out: more of the page, the command line, the slow engine
	@$(PY) -m pytest -m long

alerts: setup-dev ## Cause every alert that can be caused, repair it by its runbook, write how long it took (ONLY=Redis)
	VERBATIM_ALERTS_OUT=$(if $(ONLY),,docs/operations/alerts.md) $(PY) -m pytest -m long tests/observe/test_scenarios.py \
		--numprocesses 0 -s $(if $(ONLY),-k "$(ONLY)")

COVERAGE := COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/build/coverage/data

coverage: setup-dev ## Count the lines and branches that the tests execute, in every process; fail below 90 % (PARTS=chassis)
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(COVERAGE) $(PYTEST) $(PARTS)
	@$(COVERAGE) $(PY) -m tests.covered $(if $(PARTS),,--out docs/coverage.md)

chaos: setup-dev ## Break everything under load and count what is lost (SEED=1 ROWS=8,24a NEMESIS_S=600)
	@$(PY) -m tests.chaos --seed $(or $(SEED),1) --rows "$(ROWS)" --nemesis-s $(or $(NEMESIS_S),600) --out docs/faults.md

volume: setup-dev ## Push 100,000 events and 20,000 jobs through faults and account for each (SEED=1)
	@$(PY) -m tests.volume --seed $(or $(SEED),1) --out docs/faults-data.md

bench: setup-dev ## Measure the live path beside the raw limits of this machine (SESSIONS=1,50,200,400)
	@$(PY) -m tests.bench --sessions $(or $(SESSIONS),1$(comma)50$(comma)200$(comma)400) $(if $(SESSIONS),,--out docs/performance.md)
	@$(PY) -m tests.bench.calls
	@$(PY) -m tests.bench.library $(if $(SESSIONS),--segments 50000,--out docs/performance-data.md)
	@$(PY) -m tests.bench.overhead $(if $(SESSIONS),--seconds 5,--out docs/performance-overhead.md)

bench-speech: setup-dev ## Measure drafts, healing, fairness and what captions cost at the API (ONLY=errors,drafts)
	@$(PY) -m tests.bench.speech $(if $(ONLY),--only $(ONLY),--out docs/performance-speech.md)

bench-edge: setup-dev ## Measure the edge beside bare FastAPI, the bare store and a PING (REQUESTS=4000)
	@$(PY) -m tests.bench.edge $(if $(REQUESTS),--requests $(REQUESTS) --rounds 2,--out docs/performance-edge.md)

IMAGE ?= verbatim:$(shell sed -n 's/^appVersion: //p' deploy/helm/verbatim/Chart.yaml)
CA_CERTIFICATES ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)

image: ## Build the one image of all services, and its bill of materials (IMAGE=verbatim:0.1.0)
	@mkdir -p build
	DOCKER_BUILDKIT=1 docker build --file deploy/Dockerfile --tag $(IMAGE) --network host \
		$(if $(CA_CERTIFICATES),--secret id=ca$(comma)src=$(CA_CERTIFICATES)) \
		--build-arg VERSION=$(lastword $(subst :, ,$(IMAGE))) \
		--build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$(git log -1 --format=%cI) .
	@$(PY) -m cyclonedx_py requirements requirements.txt --pyproject pyproject.toml --output-reproducible -o build/sbom.cdx.json
	@docker image inspect --format '  · {{.Size}} bytes, {{.Id}}' $(IMAGE)

image-test: setup-dev image ## Run the image hardened, down to a real transcription
	VERBATIM_IMAGE=$(IMAGE) $(PY) -m pytest tests/image -s

cluster-test: setup-dev ## Take the chart through its life in the current cluster (CLUSTER=control-plane: one made here)
	@$(PY) -m tests.cluster --cluster $(or $(CLUSTER),current) --image $(IMAGE) --previous "$(PREVIOUS)" --steps "$(STEPS)" \
		$(if $(OUT),--out $(OUT))

fuzz: setup-dev ## Send the platform whatever its document allows, and what it does not (CASES=50000 SEED=1)
	@$(PY) -m tests.fuzz --cases $(or $(CASES),50000) --seed $(or $(SEED),1)

mutation: setup-dev ## Change the resilience code in every small way and see that its tests notice (ONLY=retry)
	@$(PY) -m tests.mutation --only "$(ONLY)" $(if $(ONLY),,--out docs/mutation.md)

lint: setup-dev ## Check style, types, contracts and house rules
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/buf lint
	@base=$$(git rev-parse --verify --quiet origin/main || git rev-parse --verify --quiet main || true); \
	if [ -z "$$base" ] || [ -z "$$(git ls-tree "$$base" proto)" ]; then \
		echo "buf breaking: skipped, there is no main branch with contracts to compare with"; \
	else \
		echo "buf breaking against $$(git rev-parse --short "$$base")"; \
		rm -rf build/base && mkdir -p build/base && git archive "$$base" buf.yaml proto | tar -x -C build/base && \
		.venv/bin/buf breaking --against build/base; \
	fi
	@if [ -e tests/test_architecture.py ]; then $(PY) -m pytest tests/test_architecture.py; fi

lock: $(UV) ## Compile requirements*.in anew
	$(COMPILE) requirements.in --output-file requirements.txt
	$(COMPILE) requirements-dev.in --output-file requirements-dev.txt

clean: ## Forget the local platform's data, generated code and caches (not .venv)
	@[ ! -x $(PY) ] || $(PY) -m dev clean
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

setup-dev: .venv/requirements-dev.stamp
	@$(PY) -m dev setup

.venv/requirements.stamp: requirements.txt | $(UV)
	$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements.txt
	@touch $@

.venv/requirements-dev.stamp: requirements-dev.txt .venv/requirements.stamp
	$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements.txt -r requirements-dev.txt
	@touch $@

$(UV): | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.11 run"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "  · installing the Debian package python3-venv"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
		else echo "error: please install: sudo apt-get install python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv .venv
