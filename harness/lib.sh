# SPDX-License-Identifier: GPL-2.0
# Sourced by the scripts: where things are, messages, and what several scripts need.
# shellcheck shell=bash disable=SC2034 # what is set here is used by them

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$ROOT/build}
[[ $BUILD = /* ]] || BUILD=$PWD/$BUILD
STAGE_T0=${STAGE_T0:-$(date +%s)}
ARCH=${ARCH:-x86_64}
# The process that began it all: make, or the first script. See end_with_top.
if [ -z "${HARNESS_TOP:-}" ]; then
	[ -n "${MAKELEVEL:-}" ] && HARNESS_TOP=$PPID || HARNESS_TOP=$$
fi
export ROOT BUILD STAGE_T0 ARCH HARNESS_TOP

# die MESSAGE: one line, and a non-zero exit status.
die()
{
	echo "${0##*/}: $*" >&2
	exit "${die_status:-1}"
}

# stage TEXT: what is being done, with the time since the command began. check keeps
# stderr for itself and has the stages printed to STAGE_FD.
stage()
{
	local s=$(( $(date +%s) - STAGE_T0 ))

	printf '[%2d:%02d] %s\n' $((s / 60)) $((s % 60)) "$*" >&"${STAGE_FD:-2}"
}

# help ARGUMENT...: if --help is the first, print the comment at the top of the script.
help()
{
	[[ ${1:-} =~ ^(-h|--help)$ ]] || return 0
	awk 'NR > 3 { if (!sub(/^# ?/, "")) exit; print }' "$0"
	exit 0
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

# set_arch: all that depends on ARCH, and on MODE for arm64. A new one also needs a line
# in run.py (ARCHES), in deps, and configs of its own. $suffix is for names of what is built.
set_arch()
{
	local mode=${MODE:-vhe}

	suffix=-$ARCH console=ttyAMA0 kernel_params='' qemu_machine=() qemu_tty=()
	# A second serial port would do, but not each machine has one.
	[ "$ARCH" = x86_64 ] || tty=hvc0 qemu_tty=(-device virtio-serial-device -device "virtconsole,chardev=tty")
	case $ARCH in
	x86_64)
		suffix='' kernel_arch=x86_64 compiler=gcc cross='' elf='X86-64'
		kernel_target=bzImage kernel_image=arch/x86/boot/bzImage
		qemu_name=qemu-system-x86_64 qemu_package=qemu-system-x86
		qemu_machine=(-nodefaults) qemu_cpu=EPYC,+svm,+npt qemu_knows="EPYC svm"
		console=ttyS0 tty=ttyS1 qemu_tty=(-serial chardev:tty)
		# The kernel's check of the timer fails, and panics, if a busy host delays its ticks.
		kernel_params="no_timer_check setcpuid=constant_tsc" ;;
	arm64)
		kernel_arch=arm64 cross=aarch64-linux-gnu- compiler=${cross}gcc elf=AArch64
		kernel_target=Image kernel_image=arch/arm64/boot/Image
		qemu_name=qemu-system-aarch64 qemu_package=qemu-system-arm
		qemu_machine=(-nodefaults -machine "virt,virtualization=on,gic-version=3")
		case $mode in
		vhe)	qemu_cpu=max,pauth-impdef=on ;;
		nofwb)	qemu_cpu=cortex-a76 ;;
		nvhe | protected) qemu_cpu=cortex-a72 kernel_params=kvm-arm.mode=$mode ;;
		*)	die "unknown MODE '$mode': vhe, nofwb, nvhe or protected" ;;
		esac
		qemu_knows=${qemu_cpu%%,*} ;;
	riscv64)
		kernel_arch=riscv cross=riscv64-linux-gnu- compiler=${cross}gcc elf=RISC-V
		kernel_target=Image kernel_image=arch/riscv/boot/Image
		qemu_name=qemu-system-riscv64 qemu_package="qemu-system-riscv opensbi"
		qemu_machine=(-nodefaults -machine virt) qemu_cpu=rv64,h=true qemu_knows=rv64 console=ttyS0
		# Three levels of page tables are less to emulate than five.
		kernel_params=no4lvl ;;
	loongarch64)
		# KVM is only compiled. GCC 12 does not know its instructions.
		kernel_arch=loongarch cross='' compiler=clang-19 elf=LoongArch
		kernel_target="arch/loongarch/kvm/ mm/memory.o mm/oom_kill.o mm/mmu_notifier.o"
		kernel_image=arch/loongarch/kvm/built-in.a ;;
	*)	die "unknown ARCH '$ARCH': x86_64, arm64, riscv64 or loongarch64" ;;
	esac
	[ -z "${MODE:-}" ] || [ "$ARCH" = arm64 ] || die "MODE=$MODE is for ARCH=arm64 only"
	kbuild_arch=(ARCH="$kernel_arch" CROSS_COMPILE="$cross")
	[ "$compiler" != clang-19 ] || kbuild_arch+=(LLVM=-19)
}

# clean_environment: for kbuild. What make(1) hands down is meant for our Makefile.
clean_environment()
{
	export LC_ALL=C
	# Trees that come and go are compiled once.
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
# installed one; and qemu_version.
find_qemu()
{
	local dir

	set_arch
	dir=$BUILD/qemu$suffix
	qemu=("${QEMU:-$qemu_name}")
	if [ -z "${QEMU:-}" ] && [ -x "$dir/usr/bin/$qemu_name" ]; then
		qemu=("$dir/usr/bin/$qemu_name" -L "$dir/usr/share/qemu" -L /usr/share/seabios)
	fi
	qemu_version=$("${qemu[@]}" --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p') || true
	[ -n "$qemu_version" ] || die "${qemu[0]} does not run: set QEMU=, or run 'make deps'"
}

# find_busybox: set busybox, a static one for ARCH: BUSYBOX=, or the one that deps has
# unpacked, or the installed one.
find_busybox()
{
	busybox=${BUSYBOX:-$BUILD/busybox$suffix/usr/bin/busybox}
	[ "$ARCH" != x86_64 ] || busybox=${BUSYBOX:-$(type -P busybox)} || true
	[ -x "$busybox" ] || die "no static busybox for $ARCH: set BUSYBOX=, or run 'make deps'"
}

# find_tcg: set tcg to what TCG= is for the QEMU found. QEMU before 10.0 mixes up the
# registers of a guest and of its host if each CPU has a thread (seen with 7.2, SVM).
find_tcg()
{
	tcg=${TCG:-auto}
	[[ $tcg =~ ^(auto|multi|single)$ ]] || die "TCG=$tcg: auto, multi or single"
	[ "$tcg" != auto ] || { [ "${qemu_version%%.*}" -ge 10 ] && tcg=multi; } || tcg=single
}

# heading TARGET: the first lines of a table in results/. The tree is all that matters
# for a result, i.e. results/ itself and the README are not among it.
heading()
{
	local tree with

	tree=$(git -C "$ROOT" ls-tree HEAD | grep -v -e $'\tresults$' -e $'\tREADME.md$' |
		git -C "$ROOT" hash-object --stdin)
	set_arch
	with="nothing is run"
	[ "$ARCH" = loongarch64 ] || { find_qemu; find_tcg; with="QEMU $qemu_version, TCG: $tcg"; }
	echo "# $(date +%F): make $1, $(git -C "$ROOT" describe --always --dirty), tree ${tree:0:12}"
	echo "# $("$ROOT/harness/base" --pinned 2>/dev/null)"
	echo "# $("$compiler" --version | head -n 1); $with"
}

# A package source of our own beside the machine's, with its own lists and cache, in the
# folder $work.
private_apt()
{
	local cmd=$1

	shift
	"$cmd" -q -o Dir::State::Lists="$work/apt/lists" \
		-o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Cache="$work/apt/cache" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
		-o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "$@"
}

# The mirror this machine gets its own packages from. Only fetched lists tell
# whose packages they are, so on a machine without any they are fetched aside.
mirror()
{
	local query=(indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
	local lists=$work/apt/machine uri

	uri=$(apt-get "${query[@]}" 2>/dev/null | head -n 1) || true
	if [ -z "$uri" ]; then
		mkdir -p "$lists/partial"
		apt-get -q -o Dir::State::Lists="$lists" -o APT::Sandbox::User=root update >"$work/err" 2>&1 || true
		uri=$(apt-get -o Dir::State::Lists="$lists" "${query[@]}" 2>/dev/null | head -n 1) || true
	fi
	echo "$uri"
}

# unpack_debs SUITE[/ARCHITECTURE] DIR PACKAGE...: unpack Debian packages, which need not be
# installed, in DIR. If that fails, $reason says why, and there is no DIR.
unpack_debs()
{
	local suite=${1%/*} arch=${1#*/} dir=$2 work=$2.new uri deb options=()

	shift 2
	[ "$arch" = "$suite" ] || options=(-o APT::Architecture="$arch" -o APT::Architectures="$arch")
	command -v apt-get >/dev/null && command -v dpkg >/dev/null || { reason="no apt-get here to fetch it"; return 1; }
	rm -rf "$work" "$dir"
	mkdir -p "$work"/{apt/lists/partial,apt/cache/archives/partial,download,root} || return
	uri=$(mirror)
	[ -n "$uri" ] || { reason="no Debian package source is configured or reachable"; return 1; }
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" > "$work/apt/sources.list"
	private_apt apt-get update --error-on=any "${options[@]}" >"$work/err" 2>&1 &&
		(cd "$work/download" && private_apt apt-get download "${options[@]}" "${@/%/\/$suite}") >"$work/err" 2>&1 ||
		{ reason="$suite: $(grep -m1 '^[EW]:' "$work/err")"; return 1; }
	for deb in "$work"/download/*.deb; do
		dpkg -x "$deb" "$work/root" 2>"$work/err" || { reason="$(tail -n 1 "$work/err")"; return 1; }
	done
	mv "$work/root" "$dir"
	rm -rf "$work"
}
