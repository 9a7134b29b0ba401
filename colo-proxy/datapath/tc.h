/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_TC_H
#define COLO_DATAPATH_TC_H

#include <stdbool.h>

/*
 * clsact and its BPF filters (tc-bpf(8)), internal to the data path. The filter has preference 1,
 * so that no other filter decides before it; its handle is TC_HANDLE, so that it replaces the one
 * that an earlier run left behind, in one step.
 */

#define TC_HANDLE 0xc010u

enum tc_side { TC_SIDE_INGRESS, TC_SIDE_EGRESS };

/* Makes sure that the interface has a clsact qdisc. 0 or a negative errno. */
int tc_clsact(int ifindex);

/* Attaches the program in direct-action mode, or replaces the one that is there. */
int tc_attach(int ifindex, enum tc_side side, int prog_fd);

/* Removes our filter; -ENOENT when there is none. The qdisc stays: others may use it. */
int tc_detach(int ifindex, enum tc_side side);

#endif
