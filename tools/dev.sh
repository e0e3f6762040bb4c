#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv from requirements.lock and puts the four wheels into it, editable. Returns at once when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

inputs=(requirements.lock pyproject.toml core/pyproject.toml enclave/pyproject.toml cloud/pyproject.toml
  client/pyproject.toml tools/dev.sh)
digest() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
# The folder is part of the key: a virtual environment that was moved is broken.
key=$({ echo "$PWD"; cat "${inputs[@]}"; } | digest | cut -d' ' -f1)
stamp=.venv/.teehouse-dev

works() { [ -x .venv/bin/python ] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && [ -x .venv/bin/teehouse ] && works; then
  exit 0
fi

python=$(tools/python.sh)
uv=$(PYTHON=$python tools/uv.sh)
export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1

# uv reads none of pip's settings. A machine behind a mirror usually has only those, so they are handed on.
pip_setting() { "$python" -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1; }
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
  mirror=$(pip_setting 'index.url')
  [ -z "$mirror" ] || export UV_DEFAULT_INDEX="$mirror"
fi
if [ -z "${SSL_CERT_FILE:-}" ]; then
  bundle=$(pip_setting cert)
  [ -z "$bundle" ] || [ ! -f "$bundle" ] || export SSL_CERT_FILE="$bundle"
fi

if ! works; then
  echo "teehouse: making .venv with $("$python" --version)" >&2
  "$uv" venv --quiet --clear --python "$python" .venv
fi
echo "teehouse: installing the locked packages" >&2
rm -f "$stamp"
export VIRTUAL_ENV="$PWD/.venv"
if ! "$uv" pip install --quiet --require-hashes -r requirements.lock; then
  echo "hint: the lock holds hashes only, so any complete mirror of the Python package index will do; set UV_DEFAULT_INDEX to yours" >&2
  exit 1
fi
"$uv" pip install --quiet --no-deps -e core -e enclave -e cloud -e client
echo "$key" >"$stamp"
echo "teehouse: ready: .venv/bin/teehouse" >&2
