/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_FINDING_H
#define COLO_CORE_FINDING_H

/*
 * One line of what `colo-proxy check` says about this host: what was looked at, how it stands, and
 * what to do about it.
 */

enum finding_level {
	FINDING_OK,   /* usable */
	FINDING_WARN, /* usable with a loss that the text names */
	FINDING_FAIL, /* what depends on it cannot work */
};

struct finding {
	const char *name; /* stable identifier, static storage: "bpf-tc", "nfqueue", ... */
	enum finding_level level;
	char text[160];   /* what is so, with figures */
	char advice[200]; /* what to do next; empty when nothing is to be done */
};

#endif
