/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fragments. Each is held by itself, as not comparable. When the last one that was missing has
 * come, in the same epoch, it joins the list of the packet's flow and stands for all of them: they
 * leave together, in the order in which they came. What is not whole at a cut is the commit's, and
 * so is TCP, whose stream is compared by the bytes of held frames, and a membership report, which
 * no RFC lets a host cut.
 */
#include "colo-proxy/core/gate_private.h"

#include <stdlib.h>

/* The other fragments of the same packet: all of this epoch, before `held`. */
static void take_pieces(struct whole *whole, struct held *held, uint32_t serial, uint32_t count)
{
	for (struct held *other = held->older; other && count > 1; other = other->older) {
		if (other->flow || other->joined || other->packet.why != PACKET_WHY_FRAGMENT ||
		    other->epoch != held->epoch || other->end != serial)
			continue;
		other->joined = true;
		other->flow_next = whole->pieces;
		whole->pieces = other;
		count--;
	}
}

struct flow *gate_fragment_join(struct gate *gate, struct held *held)
{
	struct whole *whole;
	struct flow *flow = NULL;
	uint32_t count;
	struct frame *frame = fragments_add(gate->fragments, &held->packet, &held->end, &count);

	if (!frame)
		return NULL;
	whole = malloc(sizeof(*whole));
	if (!whole) {
		frame_free(frame);
		return NULL;
	}
	*whole = (struct whole){.frame = frame};
	if (packet_parse(&whole->packet, frame) == 0 && whole->packet.class != PACKET_TCP &&
	    whole->packet.class != PACKET_MEMBERSHIP)
		flow = gate_flow_of(gate, &whole->packet);
	if (!flow) {
		frame_free(frame);
		free(whole);
		return NULL;
	}
	take_pieces(whole, held, held->end, count);
	held->whole = whole;
	held->flow = flow;
	*(flow->tail ? &flow->tail->flow_next : &flow->head) = held;
	flow->tail = held;
	return flow;
}
