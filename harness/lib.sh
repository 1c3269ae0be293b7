# SPDX-License-Identifier: GPL-2.0
# Sourced by the scripts: where things are, messages, and what several scripts need.
# shellcheck shell=bash disable=SC2034 # what is set here is used by them

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$ROOT/build}
[[ $BUILD = /* ]] || BUILD=$PWD/$BUILD
STAGE_T0=${STAGE_T0:-$(date +%s)}
ARCH=${ARCH:-x86_64}
# The process that began it all: make, or the first script. See end_with_top.
HARNESS_TOP=${HARNESS_TOP:-${MAKELEVEL:+$PPID}} HARNESS_TOP=${HARNESS_TOP:-$$}
BASE=${BASE:-7.3} MAIN=$BUILD
export ROOT BUILD STAGE_T0 ARCH HARNESS_TOP BASE

# die MESSAGE: one line, and a non-zero exit status.
die()
{
	echo "${0##*/}: $*" >&2
	exit "${die_status:-1}"
}

# stage TEXT: what is being done, with the time since the command began, on stderr or STAGE_FD.
stage()
{
	local s=$(($(date +%s) - STAGE_T0))

	printf '[%2d:%02d] %s\n' $((s / 60)) $((s % 60)) "$*" >&"${STAGE_FD:-2}"
}

# help ARGUMENT...: if --help is the first, print the comment at the top of the script.
help()
{
	[[ ${1:-} =~ ^(-h|--help)$ ]] || return 0
	sed -n '4,/^$/s/^# \{0,1\}//p' "$0"
	exit
}

# end_with_top: end this script when the process that began it all has ended, which need
# not have told anybody in between. What the script starts and waits for is started by
# "${with_me[@]}" COMMAND, and ends with the script, so that no lock is held by what is left.
with_me=(setpriv --pdeathsig TERM)
end_with_top()
{
	[ "$HARNESS_TOP" != $$ ] || return 0
	setpriv --pdeathsig KILL bash -c "while kill -0 $HARNESS_TOP; do sleep 1; done; kill $$" \
		</dev/null >/dev/null 2>&1 &
	disown
}

# set_arch: the variables of arches.data. $suffix is for the names of what is built.
set_arch()
{
	local of name value mode=${MODE:-vhe}

	kernel_arch='' kernel_target='' kernel_params='' cross='' llvm='' elf='' console='' tty=''
	qemu_name='' qemu_package='' qemu_machine='' qemu_cpu='' qemu_knows='' qemu_tty=''
	suffix=-$ARCH
	[ "$ARCH" != x86_64 ] || suffix=''
	while read -r of name value; do
		[[ $of != "$ARCH"?("/$mode"|"/$BASE") ]] || printf -v "$name" %s "$value"
	done < "$ROOT/harness/arches.data"
	[ -n "$kernel_arch" ] || die "unknown ARCH '$ARCH': x86_64, arm64, riscv64 or loongarch64"
	[ -z "${MODE:-}" ] || [ "$ARCH" = arm64 ] || die "MODE=$MODE is for ARCH=arm64 only"
	[ -n "$qemu_cpu$llvm" ] || die "unknown MODE '$mode': vhe, nofwb, nvhe or protected"
	kernel_target=${kernel_target:-${kernel_image##*/}} qemu_knows=${qemu_knows:-${qemu_cpu%%,*}}
	compiler=${cross}gcc kbuild_arch=(ARCH="$kernel_arch" CROSS_COMPILE="$cross")
	[ -z "$llvm" ] || compiler=clang$llvm kbuild_arch+=(LLVM="$llvm")
}

# clean_environment: for kbuild. What make(1) hands down is meant for our Makefile. With
# ccache, trees that come and go are compiled once.
clean_environment()
{
	export LC_ALL=C
	[ ! -d /usr/lib/ccache ] || export PATH=/usr/lib/ccache:$PATH
	unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CROSS_COMPILE KBUILD_OUTPUT "${!KCONFIG_@}"
}

# need_space GB WHAT: $BUILD, with what it has, must have room for WHAT.
need_space()
{
	local free used=0

	mkdir -p "$BUILD" || die "cannot write to $BUILD"
	free=$(df -P --block-size=1G "$BUILD" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$1" ] || used=$(du -s --block-size=1G "$BUILD" | cut -f 1)
	[ $((free + used)) -ge "$1" ] ||
		die "$BUILD has $free GB of free space, and $2 needs $(($1 - used)) GB"
}

# find_qemu: set qemu, the command: QEMU=, or the one that deps has unpacked, or the
# installed one; qemu_version; and tcg, for TCG=auto what suits it: QEMU before 10.0 mixes up
# the registers of a guest and of its host if each CPU has a thread (seen with 7.2, SVM).
find_qemu()
{
	local dir

	set_arch
	dir=$MAIN/qemu$suffix qemu=("${QEMU:-$qemu_name}") tcg=${TCG:-auto}
	[ -n "${QEMU:-}" ] || [ ! -x "$dir/usr/bin/$qemu_name" ] ||
		qemu=("$dir/usr/bin/$qemu_name" -L "$dir/usr/share/qemu" -L /usr/share/seabios)
	qemu_version=$("${qemu[@]}" --version 2>/dev/null | grep -m 1 -oP 'version \K[0-9.]+') || true
	[ -n "$qemu_version" ] || die "${qemu[0]} does not run: set QEMU=, or run 'make deps'"
	[ "$tcg" != auto ] || { [ "${qemu_version%%.*}" -ge 10 ] && tcg=multi; } || tcg=single
	[ -z "${ICOUNT:-}" ] || tcg=single
}

# heading TARGET: the first lines of a table in results/. The tree is all that matters
# for a result, i.e. results/ itself and the README are not among it. Changes that are in no
# commit are, but not new files.
heading()
{
	local tree index name with="nothing is run"

	index=$(mktemp -d)
	tree=$(cd "$ROOT" && export GIT_INDEX_FILE="$index/index" &&
		git read-tree HEAD && git add -u && git ls-tree "$(git write-tree)" |
		grep -v -e $'\tresults$' -e $'\tREADME.md$' | git hash-object --stdin) || tree=
	rm -rf "$index"
	[ -n "$tree" ] || die "$ROOT: git does not say what is in it"
	set_arch
	[ "$ARCH" = loongarch64 ] || { find_qemu; with="QEMU $qemu_version, TCG: $tcg"; }
	for name in CPUS MEM APPEND ARGS TIMEOUT; do
		[ -z "${!name:-}" ] || with+="; $name=${!name}"
	done
	echo "# $(date +%F): make $1, $(git -C "$ROOT" describe --always --dirty), tree ${tree:0:12}"
	echo "# $("$ROOT/harness/base" --pinned 2>/dev/null)"
	echo "# $("$compiler" --version | head -n 1); $with"
}

# download DIR SUITE[/ARCHITECTURE] PACKAGE...: fetch Debian packages into DIR, a new folder.
# If that fails, $reason says why.
download()
{
	local dir=$1 suite=${2%/*} arch=${2#*/} apt key=/usr/share/keyrings/debian-archive-keyring.gpg

	reason="no apt-get here to fetch it"
	type -P apt-get >/dev/null || return
	reason="cannot write to $dir"
	rm -rf "$dir" && mkdir -p "$dir"/apt/{lists,cache/archives}/partial || return
	apt=(apt-get -q -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache"
		-o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::status=/dev/null -o APT::Sandbox::User=root
		-o Acquire::Retries=2 -o Acquire::http::Timeout=30)
	[ "$arch" = "$suite" ] ||
		apt+=(-o APT::Architecture="$arch" -o APT::Architectures="$arch")
	# Whichever of the sources of this machine have that suite, signed by Debian.
	apt-get update --print-uris 2>/dev/null |
		sed -nE "s,^'(.*)/dists/.*,deb [signed-by=$key] \1 $suite main,p" |
		sort -u > "$dir/apt/sources.list"
	reason="no Debian package source is configured"
	[ -s "$dir/apt/sources.list" ] || return
	{ "${apt[@]}" update; (cd "$dir" && "${apt[@]}" download "${@:3}"); } >"$dir/apt/log" 2>&1 ||
	{
		reason="$suite: $(grep -m1 '^W: Failed' "$dir/apt/log" || tail -n 1 "$dir/apt/log")"
		return 1
	}
}

# fetch WHAT SUITE[/ARCHITECTURE] NAME PACKAGE...: unpack Debian packages, which need not be
# installed, in $MAIN/NAME, if it is not there. If that fails, there is no $MAIN/NAME, $reason
# says why, and it is not repeated for a day.
fetch()
{
	local deb dir=$MAIN/$3 new=$MAIN/$3.new

	mkdir -p "$MAIN"
	exec 8>"$MAIN/.lock.fetch"
	flock 8
	[ ! -d "$dir" ] || { exec 8>&-; return; }
	reason=$(find "$dir.failed" -mmin -1440 -exec cat {} + 2>/dev/null) || true
	[ -z "$reason" ] || { exec 8>&-; return 1; }
	stage "fetching $1 from Debian's ${2%/*}"
	if download "$new" "$2" "${@:4}" &&
		reason=$(for deb in "$new"/*.deb; do dpkg -x "$deb" "$new/root" || exit; done 2>&1); then
		mv "$new/root" "$dir"
		rm -rf "$new"
	else
		echo "$reason" > "$dir.failed"
	fi
	exec 8>&-
	[ -d "$dir" ]
}

# Another BASE has a queue of its own, and what is made for it folders of its own, but for what
# is the same for all, in $MAIN.
if [ "$BASE" != 7.3 ]; then
	[[ $(< "$ROOT/harness/base.sha256") == *" linux-source-${BASE}_"* ]] ||
		die "unknown BASE '$BASE': $(grep -oP ' linux-source-\K[^_]+' "$ROOT/harness/base.sha256" | xargs)"
	[ -z "${LINUX:-}" ] || die "BASE=$BASE is a package of Debian's, there is no LINUX= of it"
	[ "$ARCH" = x86_64 ] || die "BASE=$BASE is for ARCH=x86_64 only"
	[ -e "$ROOT/patches/stable/$BASE/series" ] ||
		die "BASE=$BASE has no queue: patches/stable/$BASE/series is missing"
	MAIN=${BUILD%"/stable-$BASE"} BUILD=$MAIN/stable-$BASE
fi
