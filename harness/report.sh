# SPDX-License-Identifier: GPL-2.0
# Sourced by scripts that print a line for each of their tests.
# shellcheck shell=bash

n=0 failed=0

# result STATUS WHAT OUTPUT: it passes with status 0; else the output is shown.
result()
{
	n=$((n + 1))
	[ "$1" != 0 ] || { echo "ok $n - $2"; return 0; }
	failed=1
	echo "not ok $n - $2"
	sed '/^$/d; s/^/# /' <<< "$3"
}

finish()
{
	echo "1..$n"
	exit $failed
}
