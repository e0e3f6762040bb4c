#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .cache/official-venv: the unmodified official clients, in an environment of their own because they pin what we do not.
# Never a reason to stop: without them the tests that start them skip and say so, or, in CI, fail.
# To pin anew: write NAME==VERSION lines, then `uv pip compile --no-deps --generate-hashes --universal --no-header --no-annotate`.
set -uo pipefail
cd "$(dirname "$0")/../.."

venv=.cache/official-venv
wanted=tests/official/requirements.txt
[ -x "$venv/bin/python" ] && cmp -s "$wanted" "$venv/requirements.txt" && exit 0
echo "teehouse: making $venv" >&2
if "$(tools/python.sh)" -m venv --clear "$venv" &&
  "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: -r "$wanted"; then
  cp "$wanted" "$venv/requirements.txt"
else
  rm -rf "$venv"
  echo "teehouse: MISSING PACKAGES: the official clients could not be installed; going on" >&2
fi
exit 0
