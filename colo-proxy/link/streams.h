/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_STREAMS_H
#define COLO_LINK_STREAMS_H

/* How many streams this side can have (link_params.streams), and why so many. Pure. */

#define LINK_STREAMS_AUTO (-1)

struct link_streams_facts {
	unsigned int processors; /* that the daemon has (processors.h) */
	unsigned int vcpus;
	unsigned int encoders; /* threads that encode checkpoints */
};

struct link_streams_choice {
	unsigned int streams; /* 1: the bulk channel's own connection */
	char why[200];        /* for people */
};

/*
 * `wish`: LINK_STREAMS_AUTO or a number, 1 to LINK_STREAMS_MAX. auto: the processors that neither
 * the VM nor the data thread nor the encoders need, 4 at most; 1 where fewer than two are left,
 * since one stream carries no more than the connection that is there without it.
 */
void link_streams_choose(const struct link_streams_facts *facts, int wish,
                         struct link_streams_choice *ret_choice);

#endif
