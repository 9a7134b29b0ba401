/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a divergence is shown with: the PVM's packets in question, and what the SVM has told. */
#include "colo-proxy/core/gate_private.h"

#include "colo-proxy/core/seq.h"

/* Whether the held packet has a part of [seq, seq + len), or is what the datagram is held to. */
static bool in_question(const struct held *held, const struct divergence *why)
{
	if (held->packet.class != PACKET_TCP)
		return held == held->flow->head;
	if (held->packet.tcp.seq == held->end)
		return why->len == 0 && held->packet.tcp.seq == why->seq;
	return seq_lt(held->packet.tcp.seq, why->seq + (why->len ? why->len : 1)) &&
	       seq_gt(held->end, why->seq);
}

void gate_evidence(const struct flow *flow, uint32_t epoch, struct divergence *why)
{
	why->has_key = true;
	why->key = flow->entry.key;
	why->iss_known = flow->iss_known;
	why->iss = flow->iss;
	for (const struct held *held = flow->head; held && why->packets < DIVERGENCE_PACKETS;
	     held = held->flow_next) {
		if (held->epoch != epoch || held->incarnation != flow->incarnation ||
		    !in_question(held, why))
			continue;
		/* Fragments are shown as the packet that they make. */
		why->packet[why->packets] = held->whole ? &held->whole->packet : &held->packet;
		why->arrived[why->packets++] = held->arrived;
	}
}
