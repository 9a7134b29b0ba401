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

/*
 * What the port's program learns of the VM's IP packets, which it leaves to the other hook, in a
 * map of its own: under their addresses, those of TCP under their connection. TCP behind IPv4
 * options or IPv6 extension headers counts as a packet of another protocol. It does not learn from
 * one that has less than 4 bytes behind the addresses. When the map is full, those go that have
 * said nothing for longest.
 */
#define BPF_LINKS      4096
#define BPF_FLOW_IPV4  12 /* bytes of a key in use; the others are zero */
#define BPF_FLOW_PORTS 4

/* Source and destination address, as in the packet, and TCP's ports; zero for all others. */
struct bpf_flow {
	uint8_t bytes[36];
};

struct bpf_link {
	uint8_t addresses[12]; /* destination and source, as in the Ethernet header */
	uint32_t segment;      /* gso_size of the newest superframe; 0: there was none */
};

/* A map without entries; returns its descriptor or a negative errno. */
int bpf_links_new(void);

/* What was learned under that key. 0, or -ENOENT. */
int bpf_link_get(int map_fd, const struct bpf_flow *flow, struct bpf_link *ret_link);

struct bpf_divert {
	int map_fd;
	int links_fd;   /* where it writes down what it learns; -1: it does not */
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
