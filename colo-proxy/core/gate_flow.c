/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the gate knows of a flow: how far the PVM has come, and for two epochs a view of what the
 * SVM has said, with the digests that wait for the PVM's bytes.
 */
#include "colo-proxy/core/gate_private.h"

#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

static void view_clear(struct gate *gate, struct view *view)
{
	while (view->last)
		gate_pending_pop(gate, view);
	memset(view, 0, sizeof(*view));
	view->epoch = NO_EPOCH;
}

static void flow_init(struct flow_entry *entry)
{
	struct flow *flow = (struct flow *)entry;

	flow->open_epoch = NO_EPOCH;
	flow->view[0].epoch = flow->view[1].epoch = NO_EPOCH;
}

static void flow_fini(void *ctx, struct flow_entry *entry)
{
	struct flow *flow = (struct flow *)entry;

	view_clear(ctx, &flow->view[0]);
	view_clear(ctx, &flow->view[1]);
}

/* What an evicted flow knew is lost, which is safe: its next packets wait for the SVM's own. */
static bool flow_may_go(const struct flow_entry *entry, enum flow_going why)
{
	const struct flow *flow = (const struct flow *)entry;

	(void)why;
	return !flow->head && !flow->touched;
}

#define LINES_BEFORE_VIEWS 3u /* bits 0 and 1 */

uint32_t gate_flow_lines(uint32_t epoch)
{
	return LINES_BEFORE_VIEWS | 4u << (epoch & 1);
}

const struct flow_table_ops gate_flow_ops = {
        .size = sizeof(struct flow),
        .lines = LINES_BEFORE_VIEWS,
        .init = flow_init,
        .fini = flow_fini,
        .may_go = flow_may_go,
};

static void judge(const struct gate *gate, struct flow *flow)
{
	const struct flow_key *key = &flow->entry.key;
	struct policy_subject subject;

	policy_subject_of_flow(&subject, key);
	/* The rules are for the packets, and those are of another flow. */
	flow->action =
	        key->kind == FLOW_GROUP ? POLICY_COMPARE : policy_decide(gate->policy, &subject);
	flow->judged = true;
}

struct flow *gate_flow_get(struct gate *gate, const struct flow_key *key)
{
	struct flow *flow = (struct flow *)flow_table_get(&gate->flows, key, gate->now);

	if (flow && !flow->judged)
		judge(gate, flow);
	return flow;
}

void gate_flow_clear_views(struct gate *gate)
{
	for (struct flow_entry *entry = flow_table_next(&gate->flows, NULL); entry;
	     entry = flow_table_next(&gate->flows, entry)) {
		struct flow *flow = (struct flow *)entry;

		view_clear(gate, &flow->view[0]);
		view_clear(gate, &flow->view[1]);
		gate_spoken_forget(flow);
		if (entry->key.kind == FLOW_TCP)
			flow->open_epoch = NO_EPOCH;
	}
}

/* At first use nothing that the flow said in this epoch has been noted, so that snd_max and ack_max
 * are those of the cut. */
struct view *gate_view_make(struct gate *gate, struct flow *flow, uint32_t epoch)
{
	struct view *view = &flow->view[epoch & 1];

	if (view->epoch != NO_EPOCH && view->epoch > epoch)
		return NULL;
	view_clear(gate, view);
	view->epoch = epoch;
	if (flow->snd_known) {
		view->covered_known = view->covered_low_open = true;
		view->covered_end = flow->snd_max;
	}
	if (flow->ack_known) {
		view->ack_known = true;
		view->ack = flow->ack_max;
	}
	if (flow->word_known)
		gate_membership_begin(gate, flow, view);
	return view;
}

void gate_flow_new_incarnation(struct gate *gate, struct flow *flow, struct view *view,
                               const struct packet_tcp *tcp)
{
	uint32_t epoch = view->epoch;

	view_clear(gate, view);
	view->epoch = epoch;
	view->covered_known = true;
	view->covered_start = view->covered_end = tcp->seq;
	view->syn_awaited = true;
	gate_spoken_forget(flow);
	flow->incarnation++;
	flow->iss = tcp->seq;
	flow->iss_known = true;
	flow->snd_known = true;
	flow->snd_max = tcp->seq;
	flow->ack_known = false;
	flow->open_epoch = NO_EPOCH;
	flow_table_set_state(&gate->flows, &flow->entry, FLOW_OPENING, gate->now);
}

void gate_flow_note_state(struct gate *gate, struct flow *flow, uint32_t flags)
{
	enum flow_state state = flow->entry.state;

	if (flags & PACKET_RST)
		state = FLOW_CLOSED;
	else if (flags & PACKET_FIN)
		state = FLOW_CLOSING;
	else if (!(flags & PACKET_SYN) && state == FLOW_OPENING)
		state = FLOW_OPENED;
	flow_table_set_state(&gate->flows, &flow->entry, state, gate->now);
}

void gate_flow_note_sent(struct flow *flow, const struct packet *packet)
{
	uint32_t end = packet->tcp.seq + packet_seq_len(packet);

	if (!(packet->tcp.flags & PACKET_RST)) {
		flow->snd_max = flow->snd_known ? seq_max(flow->snd_max, end) : end;
		flow->snd_known = true;
	}
	if (packet->tcp.flags & PACKET_ACK) {
		flow->ack_max =
		        flow->ack_known ? seq_max(flow->ack_max, packet->tcp.ack) : packet->tcp.ack;
		flow->ack_known = true;
	}
}

/*
 * Puts the digest into the ring: datagrams in the order of arrival, a stream in that of its
 * numbers, for the first range that the SVM is heard to say in a lineage is not always the
 * lineage's first.
 */
static void put_in_order(struct view *view, struct pending *pending)
{
	const struct digest *digest = &pending->digest;
	struct pending *before = view->last;

	if (!before) {
		pending->next = view->last = pending;
		return;
	}
	if (digest->kind == DIGEST_DATAGRAM || seq_leq(before->digest.seq, digest->seq)) {
		view->last = pending;
	} else {
		while (seq_leq(before->next->digest.seq, digest->seq))
			before = before->next;
	}
	pending->next = before->next;
	before->next = pending;
}

void gate_pending_add(struct gate *gate, struct flow *flow, struct view *view,
                      const struct digest *digest)
{
	struct pending *pending;

	if (view->broken)
		return;
	if (view->pending >= gate->limits.max_digests ||
	    gate->pending >= gate->limits.max_packets) {
		view->broken = true;
		gate_request(gate, CKPT_PRESSURE, flow, digest->seq, "the SVM is too far ahead");
		return;
	}
	pending = pool_get(&gate->pending_pool);
	if (!pending) {
		view->broken = true;
		gate_request(gate, CKPT_PRESSURE, flow, digest->seq, "no memory for a digest");
		return;
	}
	pending->digest = *digest;
	pending->at = gate->now;
	pending->passed = pending->cut_asked = false;
	put_in_order(view, pending);
	view->pending++;
	gate->pending++;
}

void gate_pending_take(struct gate *gate, struct view *view, struct pending *before)
{
	struct pending *taken = before->next;

	if (taken == before)
		view->last = NULL;
	else if (taken == view->last)
		view->last = before;
	before->next = taken->next;
	view->pending--;
	gate->pending--;
	pool_put(&gate->pending_pool, taken);
}

void gate_pending_pop(struct gate *gate, struct view *view)
{
	gate_pending_take(gate, view, view->last);
}
