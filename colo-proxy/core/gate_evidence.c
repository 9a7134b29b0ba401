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

enum ckpt_cause gate_held_cause(const struct held *held)
{
	return held->flow || held->joined ? CKPT_LATE : CKPT_UNCOMPARED;
}

/* Why the packet has no flow. */
static const char *uncompared_words(const struct packet *packet)
{
	return packet->why != PACKET_WHY_NONE
	               ? packet_why_name(packet->why)
	               : "held for commit by a rule, or the flow table was full";
}

void gate_request_held(struct gate *gate, const struct held *held)
{
	struct divergence why = {
	        .cause = gate_held_cause(held),
	        .epoch = gate->epoch,
	        .what = uncompared_words(&held->packet),
	};

	if (gate->requested & (1u << why.cause))
		return;
	gate->requested |= 1u << why.cause;
	if (held->joined)
		why.what = "the SVM has not said it in time";
	why.packet[0] = &held->packet;
	why.arrived[0] = held->arrived;
	why.packets = !held->flow;
	why.has_key = packet_flow_key(&held->packet, PACKET_FROM_VM, &why.key) == 0;
	if (held->flow) {
		const struct view *view = &held->flow->view[held->epoch & 1];

		why.what = "the SVM has not said it in time";
		if (held->packet.class == PACKET_TCP && view->epoch == held->epoch) {
			bool covered = gate_match_covered(view, held);

			why.what = !covered       ? "the SVM has not sent it in time"
			           : held->looked ? "not known to be what it repeats"
			                          : "the SVM has not acknowledged it in time";
			why.seq = held->packet.tcp.seq;
			why.wanted = covered ? held->packet.tcp.ack : held->end;
			why.seen = covered ? view->ack : view->covered_end;
			why.len = held->end - why.seq;
		}
		gate_evidence(held->flow, held->epoch, &why);
	}
	gate->ops->request(gate->ctx, &why);
}
