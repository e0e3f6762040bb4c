#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the first Python of at least 3.11 on PATH; says plainly what to install when there is none.
set -euo pipefail
for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
  path=$(command -v "$name") || continue
  if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "$path"
    exit 0
  fi
done
{
  echo "teehouse: no Python 3.11 or later found (looked for: ${PYTHON:-python3 python3.13 python3.12 python3.11 python})"
  echo "hint: Debian 12: apt-get install python3 python3-venv; Ubuntu 24.04 the same; or name one with PYTHON=/path/to/python make dev"
} >&2
exit 1
