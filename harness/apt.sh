# SPDX-License-Identifier: GPL-2.0
# Sourced by the scripts that fetch Debian packages which the machine need not
# have installed. They set $work, a folder of their own that exists.

# A package source of our own beside the machine's: own lists, own cache.
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
