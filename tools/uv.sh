#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a usable uv, fetching it into .cache/ when the machine has none. Talk goes to stderr.
# Tried in order: uv on PATH, the one fetched before, a virtual environment, pip --target (Debian without python3-venv).
set -euo pipefail
cd "$(dirname "$0")/.."

least="0.9" # first release whose `pip install` reads our lock and whose build backend is uv_build
cache="$PWD/.cache/uv"

usable() { # is $1 a uv of at least $least?
  local found
  found=$("$1" --version 2>/dev/null | awk '{print $2}') || return 1
  [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$least" "$found" | sort -V | head -n 1)" = "$least" ]
}

for candidate in "$(command -v uv || true)" "$cache/venv/bin/uv" "$cache/target/bin/uv"; do
  if [ -n "$candidate" ] && usable "$candidate"; then
    echo "$candidate"
    exit 0
  fi
done

python=${PYTHON:-}
[ -n "$python" ] || python=$(tools/python.sh)
mkdir -p "$cache"
log="$cache/install.log"
: >"$log"
echo "teehouse: fetching uv into .cache/uv (once)" >&2
rm -rf "$cache/venv" "$cache/target"
if "$python" -m venv "$cache/venv" >>"$log" 2>&1 &&
  "$cache/venv/bin/python" -m pip install --quiet --require-hashes -r tools/uv-requirements.txt >>"$log" 2>&1 &&
  usable "$cache/venv/bin/uv"; then
  echo "$cache/venv/bin/uv"
  exit 0
fi
# Debian ships the venv module without ensurepip; --target needs neither and is allowed by PEP 668.
if "$python" -m pip install --quiet --target "$cache/target" --require-hashes -r tools/uv-requirements.txt >>"$log" 2>&1 &&
  usable "$cache/target/bin/uv"; then
  echo "$cache/target/bin/uv"
  exit 0
fi

{
  echo "teehouse: could not fetch uv, the tool that installs the locked packages"
  sed 's/^/  /' "$log" | tail -n 15
  echo "hint: one of these is enough, then run make again:"
  echo "hint:   apt-get install python3-venv     (Debian and Ubuntu keep it apart from python3)"
  echo "hint:   apt-get install python3-pip"
  echo "hint:   any uv of $least or later on PATH"
  echo "hint: behind a mirror, pip's own settings (pip.conf, PIP_*) are honoured"
} >&2
exit 1
