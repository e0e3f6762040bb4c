# SPDX-License-Identifier: Apache-2.0
# The doors of Teehouse. Every target does its own set-up: a fresh machine needs Python 3.11+, pip, git and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=
SECONDS ?= 60

# program:package, only what some test or bench starts; a test whose program is missing skips with "missing program:".
#   nginx     bench: the pass-through that the gateway is compared with
#   ip        tests: the run without a network (a namespace with loopback only)
#   swtpm     tests: the tier `vtpm` against a real software TPM; tpm2_create makes the keys of its fake Azure machine
#   qemu…     tests: a boot of real firmware (OVMF, a file and no program) that measures itself into swtpm
#   postgres  tests: the cloud's store and ledger, on a server of the tests' own beside SQLite
#   softhsm2-util  tests: the key service's root key in a real PKCS#11 token
# Planned, added by the work that first starts them: chromium:chromium.
TEST_PROGRAMS := nginx:nginx ip:iproute2 swtpm:swtpm tpm2_create:tpm2-tools \
  qemu-system-x86_64:qemu-system-x86 /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf postgres:postgresql softhsm2-util:softhsm2

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev
dev: ## Make .venv from the lock; leaves .venv/bin/teehouse (instant when nothing changed)
	@tools/dev.sh

.PHONY: demo
demo: dev ## Ask a real model one question, verified and sealed, on SIMULATED hardware (DEMO_ARGS='--ask "…" --keep')
	@$(BIN)/teehouse demo $(DEMO_ARGS)

.PHONY: test
test: dev test-deps official-clients ## Run every test of the four wheels, the flows and the adversary (PYTEST_ARGS="-k seal")
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: official-clients
official-clients: dev ## Install the official TKS client that the tests start, unmodified, in an environment of its own
	@tests/official/venv.sh

.PHONY: test-deps
test-deps: ## Install the Debian packages that tests and bench start (as root or with passwordless sudo)
	@tools/test_deps.sh $(TEST_PROGRAMS)

.PHONY: lint
lint: dev ## Style, import contracts, file rules, TCB list, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/check_files.py
	$(BIN)/python tools/tcb.py --check
	$(BIN)/python tools/check_docs.py
	$(BIN)/python tools/check_pages.py --check

.PHONY: fmt
fmt: dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: dev ## mypy --strict over the four wheels
	$(BIN)/mypy

.PHONY: vectors
vectors: dev ## Prove the conformance vectors of spec/vectors, and hold the genuine evidence of ../shared to its verdicts
	@$(BIN)/python spec/generate.py --check
	@$(BIN)/python spec/check_coverage.py --check
	@$(BIN)/python spec/real_evidence.py

.PHONY: vectors-write
vectors-write: dev ## Make vectors that are missing or changed, and the page of which evidence shows which check
	@$(BIN)/python spec/generate.py
	@$(BIN)/python spec/real_evidence.py --write --quiet
	@$(BIN)/python spec/check_coverage.py

.PHONY: bench
bench: dev test-deps ## Measure the sealed path beside the plain one; results in bench/results
	@$(BIN)/python bench/run.py $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## Fuzz every parser of core, SECONDS=60 each (FUZZ_ARGS="tdx-quote --keep"); no part of the tests
	@fuzz/venv.sh
	@.cache/fuzz-venv/bin/python fuzz/run.py --seconds $(SECONDS) $(FUZZ_ARGS)

.PHONY: tcb
tcb: dev ## Remake enclave/TCB.md: what runs in the TEE, in lines and packages
	@$(BIN)/python tools/tcb.py

.PHONY: docs-check
docs-check: dev ## Check links, ADR index, change notes and the age of translations
	@$(BIN)/python tools/check_docs.py

.PHONY: docs-pages
docs-pages: dev ## Make the pages of every check and of the policy's fields anew
	@$(BIN)/python tools/check_pages.py

.PHONY: lock
lock: ## Remake requirements.lock and tools/uv-requirements.txt (packages at least a week old)
	@tools/lock.sh

.PHONY: clean
clean: ## Remove the virtual environment and every cache of this folder
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
