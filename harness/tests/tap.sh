# SPDX-License-Identifier: GPL-2.0
# Sourced by the tests of the scripts: a line for each check, in a clean environment.
# shellcheck shell=bash

set -uo pipefail
H=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export H tmp
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
unset STAGE_FD LINUX RUN ARGS TESTS TEST CPUS CPU MEM APPEND TIMEOUT TCG ICOUNT QEMU HERD7 ARCH MODE \
	BUSYBOX KUT ONLY BASE HARNESS_TOP MAKELEVEL MAKEFLAGS
. "$H/report.sh"

# refuse: for each line "WHAT | WORDS | COMMAND", with the scripts in PATH, the command
# fails, and prints one line, but for stages, which has the words, with $tmp in them.
refuse()
{
	local what words command out rc

	while IFS='|' read -r what words command; do
		[[ $what != '#'* ]] || continue
		words=${words//'$tmp'/$tmp} words=${words# } words=${words% } rc=0
		out=$(PATH=$H:$PATH bash -c "$command" 2>&1 </dev/null) || rc=$?
		[ $rc != 0 ] && [ "$(grep -cv '^\[' <<< "$out")" = 1 ] && [[ $out == *"$words"* ]]
		result $? "${what% }" "status $rc: $out"
	done
}

# script PATH TEXT: a program in $tmp.
script()
{
	rm -f "$tmp/$1"
	printf '#!/bin/sh\n%s\n' "$2" > "$tmp/$1"
	chmod +x "$tmp/$1"
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for()
{
	local end=$((SECONDS + $1))

	until "${@:2}"; do
		[ $SECONDS -lt $end ] || return
		sleep 0.2
	done
}
