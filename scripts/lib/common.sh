# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Shared by the shell scripts: progress lines with elapsed time, errors, the cache's place.
# Source it; it changes no option of the shell.

# Where QEMU and the test guest live. Absolute, since wrappers carry the path.
COLO_CACHE=$(realpath -m -- "${COLO_CACHE:-/var/cache/colo-proxy}")
export COLO_CACHE

# say TEXT...: one progress line, with the seconds since the script started.
say() {
	local ms=$((($(date +%s%N) - COLO_STARTED) / 1000000))

	printf '[%3d.%01ds] %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*"
}

# die TEXT...: say on stderr what failed and what to do, and end.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

COLO_STARTED=${COLO_STARTED:-$(date +%s%N)}
export COLO_STARTED
