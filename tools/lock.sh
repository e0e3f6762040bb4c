#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Remakes the lock. Hashes and versions only, no addresses: docs/adr/0003-hash-locked-requirements.md says why.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(tools/uv.sh)
common=(--universal --generate-hashes --python-version 3.11 --exclude-newer "7 days" --no-header --quiet)

"$uv" pip compile "${common[@]}" --group dev pyproject.toml -o requirements.lock \
  --no-emit-package teehouse --no-emit-package teehouse-core --no-emit-package teehouse-enclave --no-emit-package teehouse-cloud

head='# SPDX-License-Identifier: Apache-2.0
# The one tool that is fetched before the lock can be read. Remade by `make lock`; every file of it is pinned by hash.'
{ echo "$head"; echo uv | "$uv" pip compile "${common[@]}" --no-annotate -; } >tools/uv-requirements.txt.new
mv tools/uv-requirements.txt.new tools/uv-requirements.txt
git diff --stat -- requirements.lock tools/uv-requirements.txt 2>/dev/null || true
