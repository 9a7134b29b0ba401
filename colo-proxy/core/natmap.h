/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_NATMAP_H
#define COLO_CORE_NATMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * The mapping client <-> VM as a survivor hands it on (R7, DESIGN section 7): what a connection's
 * client believes the VM's numbers to be, against what they are. It is another thing than the
 * mapping PVM <-> SVM: the survivor applies it outermost, between the gate and the bridge, and the
 * next secondary, which is a clone of the survivor, needs it only when it takes over in its turn.
 * Then the two are added (shadow_map_adopt()).
 */

struct natmap_entry {
	struct flow_key key;
	uint32_t seq_delta, ts_delta; /* client's = VM's + delta */
	uint32_t iss;                 /* the VM's: tells a repeated SYN from a new connection */
	uint32_t tsval, syn_tsval;    /* of the VM's first and newest SYN, while `opening` */
	bool iss_known, fin_in, fin_out, reset;
	bool opening; /* the client has acknowledged the VM's SYN at most, which had a timestamp */
};

/* A list with a limit. A zeroed one is empty; the user reads entry and count. */
struct natmap {
	struct natmap_entry *entry;
	uint32_t count, room;
};

/* 0, -ENOMEM, or -ENOBUFS above `max` entries. */
int natmap_add(struct natmap *map, const struct natmap_entry *entry, uint32_t max);

/* Empties it. */
void natmap_clear(struct natmap *map);

/* *to gets what *from has, and *from is empty. */
void natmap_move(struct natmap *to, struct natmap *from);

#endif
