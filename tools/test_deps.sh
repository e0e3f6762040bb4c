#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tools/test_deps.sh PROGRAM:PACKAGE... installs the Debian packages of those programs that are missing.
# A program with a leading slash is a file that need only exist (firmware).
# Never a reason to stop: without root it names what is missing, and the tests that need it skip or, in CI, fail.
set -uo pipefail
missing_programs=() packages=()
for pair in "$@"; do
  program="${pair%%:*}"
  if [ "${program#/}" != "$program" ] && [ -e "$program" ]; then continue; fi
  # (Debian keeps the programs of a PostgreSQL server off PATH, in a folder for each version)
  if ! PATH="$PATH:/usr/sbin:/sbin$(printf ':%s' /usr/lib/postgresql/*/bin)" command -v "$program" >/dev/null; then
    missing_programs+=("$program")
    packages+=("${pair##*:}")
  fi
done
[ "${#packages[@]}" -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else
    {
      echo "teehouse: MISSING PROGRAMS: ${missing_programs[*]} (no root and no passwordless sudo, so nothing is installed)"
      echo "hint: apt-get install ${packages[*]}"
      echo "hint: going on; the tests that start them will skip and say so"
    } >&2
    exit 0
  fi
fi
if ! command -v apt-get >/dev/null; then
  echo "teehouse: MISSING PROGRAMS: ${missing_programs[*]} (no apt-get here; install them your system's way); going on" >&2
  exit 0
fi
echo "teehouse: installing ${packages[*]}" >&2
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null >/dev/null; }
# Services that come with a package are not wanted, only their programs. policy-rc.d is asked by every Debian maintainer script.
policy=/usr/sbin/policy-rc.d
made_policy=0
trap '[ "$made_policy" -eq 0 ] || "${as_root[@]}" rm -f "$policy"' EXIT
if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null; then
  "${as_root[@]}" chmod 755 "$policy" && made_policy=1
fi
{ apt update && apt install -y --no-install-recommends "${packages[@]}"; } ||
  echo "teehouse: MISSING PROGRAMS: could not install ${packages[*]}; going on" >&2
exit 0
