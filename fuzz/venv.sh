#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .cache/fuzz-venv: the locked packages, core and enclave editable, and atheris, which the lock does not hold.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.cache/fuzz-venv
[ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import atheris, lxml, teehouse_core' 2>/dev/null && exit 0
echo "teehouse: making $venv" >&2
"$(tools/python.sh)" -m venv --clear "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -e core -e enclave
"$venv/bin/pip" install --quiet --disable-pip-version-check 'atheris>=3.0'
