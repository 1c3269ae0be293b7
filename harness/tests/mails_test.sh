#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The mails of all parts, in $BUILD/mails, as somebody makes them who is not configured
# anywhere: the security fix, the parts for x86, and those for other architectures; with another
# BASE, its parts. git am of them, on the base, gives the tree of the series. With the default,
# also git send-email, and checkpatch.

set -uo pipefail
. "$(dirname "$0")/../lib.sh"
. "$ROOT/harness/report.sh"
out=$BUILD/mails parts=(security all riscv arm64 loongarch)
[ "$BASE" = 7.3 ] || mapfile -t parts < <(sed -n 's/^\[\(.*\)\]$/\1/p' "$ROOT/patches/stable/$BASE/series")
export GIT_{AUTHOR,COMMITTER}_NAME="A U Thor" GIT_{AUTHOR,COMMITTER}_EMAIL=author@example.com

# t WHAT COMMAND...: one test.
t()
{
	local rc=0 log=$out/$((n + 1)).log

	"${@:2}" > "$log" 2>&1 || rc=$?
	result $rc "$1" "$(tail -n 17 "$log"; echo "see $log")"
	return $rc
}

mails()
{
	local part

	for part in "${parts[@]}"; do
		OUT=$out/$part "$ROOT/harness/queue" mails ${part/all/} || return
	done
}

git_am()
{
	local tree=$out/tree part mails=() rev

	for part in "${parts[@]}"; do
		mails+=("$out/$part"/*.patch)
	done
	rev=$("$ROOT/harness/queue" rev series) &&
		git -C "$BUILD/src" worktree add -qf --no-checkout --detach "$tree" base &&
		git -C "$tree" read-tree HEAD &&
		git -C "$tree" -c user.name=am -c user.email=am am -q --empty=drop "${mails[@]}" &&
		git -C "$tree" diff --exit-code --stat HEAD "$rev"
}

# No mail leaves, this is what it would send. The security fix goes to no list.
send_email()
{
	local send=(env HOME="$out" git send-email --dry-run --confirm=never --smtp-server=/bin/true
		--from "A U Thor <author@example.com>")

	"${send[@]}" "$out"/all/*.patch &&
		grep -q '^To: ' "$out/all/0000-cover-letter.patch" &&
		"${send[@]}" "$out"/security/*.patch > "$out/send-security" &&
		grep -q '^Sendmail: .* security@kernel.org$' "$out/send-security" &&
		! grep vger.kernel.org "$out/send-security"
}

# Each mail, but for the exceptions that are named.
checkpatch()
{
	local types words=/usr/lib/python3/dist-packages/codespell_lib/data/dictionary.txt

	types=$(sed 's/#.*//' "$ROOT/harness/checkpatch-exceptions" | xargs | tr ' ' ',')
	"$BUILD/src/scripts/checkpatch.pl" --root="$BUILD/src" --strict --terse --show-types --codespell \
		--codespellfile "$words" --ignore "$types" "$out"/*/{*[1-9],*[1-9]0}-*.patch
}

rm -rf "$out"
mkdir -p "$out"
t "mails" mails || finish
t "git am of the mails gives the same tree" git_am
if [ "$BASE" = 7.3 ]; then
	t "git send-email --dry-run of the mails" send_email
	t "checkpatch --strict" checkpatch
fi
finish
