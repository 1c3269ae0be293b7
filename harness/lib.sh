# SPDX-License-Identifier: GPL-2.0
# Sourced by the scripts beside it: where things are, and how to say so.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$ROOT/build}
[[ $BUILD = /* ]] || BUILD=$PWD/$BUILD
STAGE_T0=${STAGE_T0:-$(date +%s)}
export ROOT BUILD STAGE_T0

# die MESSAGE: one clear line, non-zero exit.
die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

# stage TEXT: what is being done now, with the time since the command began.
# check keeps stderr for itself and has the stages shown by way of STAGE_FD.
stage()
{
	local s=$(( $(date +%s) - STAGE_T0 ))

	printf '[%2d:%02d] %s\n' $((s / 60)) $((s % 60)) "$*" >&"${STAGE_FD:-2}"
}

# heading TARGET: the first lines of a table in results/.
heading()
{
	echo "# $(date +%F): make $1, $(git -C "$ROOT" describe --always --dirty)"
	echo "# $(gcc --version | head -n 1); $(qemu-system-x86_64 --version | head -n 1)"
}

# near WANTED NAME...: "; near it: ..." if some names are, for a refusal.
near()
{
	python3 -c '
import difflib, sys
want, *names = sys.argv[1:]
last = {x.split("/")[-1]: x for x in names}
near = [x for x in names if want in x]
near += [last[x] for x in difflib.get_close_matches(want.split("/")[-1], last, 5, 0.6)]
if near:
    print("; near it:", *list(dict.fromkeys(near))[:8])' "$@"
}
