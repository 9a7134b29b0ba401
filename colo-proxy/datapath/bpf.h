/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_BPF_H
#define COLO_DATAPATH_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The data path's BPF programs, assembled here and loaded by bpf(2). Internal to the data path.
 *
 * One array map of three words steers them while they run, so that a change of mode is one system
 * call, takes effect at once, and takes no lock of the network stack:
 *   [BPF_CELL_MODE]     enum bpf_mode of the port's program
 *   [BPF_CELL_REENTRY]  1: what is written to the tap re-enters at the port; 0: it is dropped
 *   [BPF_CELL_LEAVE_IP] 1: untagged IPv4 and IPv6 are not diverted (another hook holds them)
 */

enum bpf_cell { BPF_CELL_MODE, BPF_CELL_REENTRY, BPF_CELL_LEAVE_IP, BPF_CELLS };

enum bpf_mode {
	BPF_MODE_DIVERT, /* to the tap, except frames that carry the mark */
	BPF_MODE_PASS,   /* everything goes its way */
	BPF_MODE_DROP,   /* nothing goes anywhere */
};

/* A map with all cells zero; returns its descriptor or a negative errno. */
int bpf_cells_new(void);
int bpf_cell_set(int map_fd, enum bpf_cell cell, uint32_t value);

struct bpf_divert {
	int map_fd;
	uint32_t mark;  /* a frame with this mark passes, and loses the mark */
	bool keep_mark; /* it passes and keeps it, for a hook that comes later */
	int to_ifindex; /* others leave through this interface, the tap that the daemon reads */
};

/*
 * The program for the port (either side). Returns its descriptor or a negative errno; `err` gets
 * the verifier's words.
 */
int bpf_load_divert(const struct bpf_divert *divert, char *err, size_t errlen);

/* The program for the tap's ingress: sets the mark and redirects to the ingress of a port. */
int bpf_load_reentry(int map_fd, uint32_t mark, int to_ifindex, char *err, size_t errlen);

#endif
