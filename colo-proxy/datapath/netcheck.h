/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_NETCHECK_H
#define COLO_DATAPATH_NETCHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "colo-proxy/core/finding.h"

/*
 * What this host's network can do for the data path. Devices and rules are tried in a network
 * namespace that is made for it in a child process, so that nothing of the host's is touched.
 */

#define NETCHECK_MAX 12

struct netcheck_params {
	const char *bridge; /* looked up in this namespace; NULL: not looked at */
	const char *port;   /* the VM's port, should it exist already; NULL: not looked at */
	bool nfqueue; /* the configuration asks for it: its lack is a failure, not a warning */
};

/*
 * Names, in this order: "capabilities", "tap", "bpf-tc", "br-netfilter", "nfqueue", "bridge",
 * "port". Fills up to `max` findings and returns how many; never fails as a whole. Blocks for some
 * tens of milliseconds. Single-threaded callers only (it forks).
 */
size_t netcheck_run(const struct netcheck_params *params, struct finding *findings, size_t max);

#endif
