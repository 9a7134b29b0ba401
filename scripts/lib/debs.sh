# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Debian packages of another suite, downloaded and not installed: an apt state of its own, with its
# own sources, lists and an empty record of what is installed. The machine's apt is not touched.
# Archives are checked against Debian's archive keys.

debs_mirror=${COLO_DEBIAN_MIRROR:-http://deb.debian.org/debian}
debs_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# debs_open DIR SUITE...: make the state in DIR and read the lists of the suites (main only).
debs_open() {
	local dir=$1 suite

	shift
	mkdir -p "$dir"/{lists/partial,cache/archives/partial,dpkg,none}
	: >"$dir/dpkg/status"
	for suite; do
		echo "deb [signed-by=$debs_keyring] $debs_mirror $suite main"
	done >"$dir/sources.list"
	cat >"$dir/apt.conf" <<-EOF
		Dir::State "$dir";
		Dir::State::lists "$dir/lists";
		Dir::State::status "$dir/dpkg/status";
		Dir::Cache "$dir/cache";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "$dir/none";
		Dir::Etc::preferences "$dir/none/preferences";
		Dir::Etc::preferencesparts "$dir/none";
		Dir::Etc::trustedparts "$dir/none";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Acquire::Retries "3";
	EOF
	debs_apt "$dir" update || die "cannot read $debs_mirror: is the network there?"
}

# debs_apt DIR ARGUMENTS...: apt-get in that state.
debs_apt() {
	local dir=$1

	shift
	APT_CONFIG=$dir/apt.conf apt-get -qq "$@"
}

# debs_fetch_closure DIR SUITE PACKAGE...: download the packages, newest from SUITE, with all that
# they depend on.
debs_fetch_closure() {
	local dir=$1 suite=$2

	shift 2
	debs_apt "$dir" -y --download-only -t "$suite" install "$@" >/dev/null ||
		die "cannot download $* from $suite of $debs_mirror"
}

# debs_fetch DIR PACKAGE...: download these, without what they depend on.
debs_fetch() {
	local dir=$1

	shift
	(cd "$dir/cache/archives" && debs_apt "$dir" download "$@") ||
		die "cannot download $* from $debs_mirror"
}

# debs_fetch_dependency DIR META PREFIX: download the one package whose name starts with PREFIX that
# the metapackage META depends on, without what that depends on.
debs_fetch_dependency() {
	local dir=$1 meta=$2 prefix=$3 package

	package=$(APT_CONFIG=$dir/apt.conf apt-cache depends "$meta" |
		sed -n "s/^ *Depends: \($prefix.*\)/\1/p" | head -n 1)
	[ -n "$package" ] || die "$meta of $debs_mirror depends on no $prefix*"
	debs_fetch "$dir" "$package"
}

# debs_list DIR: the downloaded archives, one path a line.
debs_list() {
	find "$1/cache/archives" -maxdepth 1 -name '*.deb'
}
