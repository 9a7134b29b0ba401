/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_DIVERT_H
#define COLO_DATAPATH_DIVERT_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/datapath/bpf.h"
#include "colo-proxy/datapath/counters.h"
#include "colo-proxy/datapath/tapdev.h"

/*
 * A diversion: what passes one side of an interface goes to a tap that this process reads instead.
 * Internal to the data path; hold and intercept are made of it.
 */

struct divert {
	int tap_fd;
	int map_fd;
	int links_fd; /* see bpf_link_get(); -1: nothing is learned */
	int port;     /* index of the VM's port */
	int side;     /* enum tc_side */
	enum bpf_mode mode;
	bool attached;
	char tap_name[IFNAMSIZ];
	struct tap_counters tap;
	struct tapdev_reader reader;
};

struct divert_params {
	const char *port;     /* the VM's port */
	const char *tap_name; /* pattern for the tap's name, such as "colo%d" */
	int side;             /* enum tc_side: TC_SIDE_INGRESS is what the VM says */
	uint32_t mark;        /* not 0 */
	bool keep_mark;       /* see struct bpf_divert */
	bool learn;           /* of IP that is left: what bpf_link_get() tells */
	bool reentry;         /* what is written to the tap re-enters at the port's ingress */
	unsigned queue;       /* frames that wait in the tap */
	enum bpf_mode mode;   /* at the start */
};

/* Fills *d. 0, or a negative errno with words in `err` and nothing left behind. */
int divert_open(struct divert *d, const struct divert_params *params, char *err, size_t errlen);

/* Takes effect for the next frame. 0 or a negative errno. */
int divert_set_mode(struct divert *d, enum bpf_mode mode);
int divert_set_reentry(struct divert *d, bool on);
int divert_set_leave_ip(struct divert *d, bool on); /* see bpf.h; off at the start */

/*
 * Up to max frames in order of arrival, as a list; returns their number, 0 when none waits, or a
 * negative errno when the first read failed.
 */
int divert_receive(struct divert *d, struct frame **ret_list, unsigned max);

/*
 * Removes the tap. With `open_port` the filter goes too and the port is as it was; without, the
 * port drops this side's frames until another diversion is opened on it or it is removed.
 */
void divert_close(struct divert *d, bool open_port);

#endif
