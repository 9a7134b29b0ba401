/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a held frame has been said by the SVM (R1 (a), R2), and its release if so.
 *
 * A TCP segment asks its view: is its range covered, and by these bytes (gate_spoken.c), has the
 * SVM acknowledged at least as much, has it reset the same connection. Datagrams are compared with
 * the SVM's one by one, see datagram_matches(). Before a segment shows the client a later timestamp
 * than the SVM has, the secondary is told of the lead (R7).
 */
#include "colo-proxy/core/gate_private.h"

#include <assert.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

#define TS_LEAD_GRAIN  128u          /* ticks; told in steps, so that it is told seldom */
#define TS_SEEN_WITHIN 1000000000ull /* ns: older sights of the SVM's clock say nothing */
#define TS_TICK_NS     1000000u
#define PASSED_MAX     16u /* of the SVM's datagrams that the PVM may still say */
#define LATER_MAX      16u /* of the PVM's datagrams that are looked at */

/* The SVM's clock has not been seen of late. It was the PVM's at the cut, and the PVM's has not
 * gone further since than time has, at a tick each millisecond, the fastest that RFC 7323 allows.
 */
static int32_t lead_bound(const struct gate *gate, const struct view *view, uint64_t now)
{
	uint64_t ticks = (now - gate->cut_at[view->epoch & 1]) / TS_TICK_NS + 1;

	return ticks < INT32_MAX / 2 ? (int32_t)ticks : INT32_MAX / 2;
}

/* Tells the secondary how far the PVM's timestamp clock leads, before a packet shows it. */
static void note_ts_lead(struct gate *gate, const struct view *view, const struct packet *packet,
                         uint64_t now)
{
	uint32_t *told = &gate->ts_lead[view->epoch & 1];
	int32_t lead;

	if (!packet->tcp.ts_off)
		return;
	if (view->ts_known && now - view->ts_at <= TS_SEEN_WITHIN)
		lead = seq_diff(packet->tcp.tsval, view->ts);
	else
		lead = lead_bound(gate, view, now);
	if (lead <= 0 || (uint32_t)lead <= *told)
		return;
	*told = ((uint32_t)lead / TS_LEAD_GRAIN + 1) * TS_LEAD_GRAIN;
	gate->ops->ts_lead(gate->ctx, view->epoch, *told);
}

bool gate_match_covered(const struct view *view, const struct held *held)
{
	uint32_t seq = held->packet.tcp.seq;

	if (seq == held->end)
		return true; /* nothing of the stream in it, and those before it are gone */
	return view->covered_known && seq_leq(held->end, view->covered_end) &&
	       (view->covered_low_open || seq_geq(seq, view->covered_start));
}

/* A RST that answers a SYN has no stream: sequence number 0, and the acknowledgement names the SYN
 * (RFC 9293 section 3.5.2). */
static bool reset_matches(const struct view *view, const struct packet_tcp *tcp)
{
	if (!view->rst || view->rst_seq != tcp->seq)
		return false;
	return tcp->seq != 0 || !(tcp->flags & PACKET_ACK) || view->rst_ack == tcp->ack;
}

/* R1 (a) and R2 for one TCP segment. */
static bool segment_matches(struct gate *gate, const struct flow *flow, const struct view *view,
                            struct held *held)
{
	const struct packet_tcp *tcp = &held->packet.tcp;

	if (!gate_match_covered(view, held) || !gate_spoken_is(gate, flow, held))
		return false;
	if ((tcp->flags & PACKET_RST) && !reset_matches(view, tcp))
		return false;
	if (!(tcp->flags & PACKET_ACK))
		return true;
	return view->ack_known && seq_leq(tcp->ack, view->ack);
}

static bool hash_of(const struct gate *gate, const struct held *held, uint8_t hash[16])
{
	return packet_digest_datagram(held->whole ? &held->whole->packet : &held->packet,
	                              &gate->key, hash) == 0;
}

/* Takes the datagram out of those that the SVM has said. What it has said before is passed over,
 * and of that no more than a few are remembered. False: it has not said this. */
static bool take_said(struct gate *gate, struct view *view, const uint8_t hash[16])
{
	struct pending *before = view->last;
	uint32_t passed = 0;

	while (memcmp(before->next->digest.hash, hash, 16) != 0) {
		before = before->next;
		if (before == view->last)
			return false;
	}
	for (struct pending *at = view->last; at != before; at = at->next, passed++)
		at->next->passed = true;
	gate_pending_take(gate, view, before);
	for (; passed > PASSED_MAX; passed--)
		gate_pending_pop(gate, view);
	return true;
}

/* The PVM has said it, too, behind `held`. */
static bool said_later(const struct gate *gate, const struct held *held, const uint8_t said[16])
{
	const struct held *later = held->flow_next;
	uint8_t hash[16];

	for (uint32_t i = 0; later && i < LATER_MAX; i++, later = later->flow_next) {
		if (later->epoch == held->epoch && hash_of(gate, later, hash) &&
		    memcmp(hash, said, 16) == 0)
			return true;
	}
	return false;
}

/*
 * What the SVM has said and the PVM has not, `held` being the PVM's next: an answer that only the
 * SVM gave, if the PVM could have said it long ago, or comes in another order, if the PVM says it
 * later; then `held` is waited for. Otherwise each has said something else.
 */
static bool differs(struct gate *gate, struct view *view, const struct held *held)
{
	struct pending *said = gate_pending_first(view);

	while (said->passed || held->arrived > said->at + lag_wait_ns(&gate->lag)) {
		said->passed = true;
		if (said == view->last)
			return false;
		said = said->next;
	}
	return !said_later(gate, held, said->digest.hash);
}

/*
 * Datagrams are compared within their flow, in the PVM's order. One that only one VM gave, a
 * duplicate, and another order are not a difference: what the SVM has not said is late. It is one
 * when both have said something that the other has not.
 */
static bool datagram_matches(struct gate *gate, struct flow *flow, struct view *view,
                             const struct held *held)
{
	uint8_t hash[PACKET_DIGEST_LEN];

	if (!view->last || !hash_of(gate, held, hash))
		return false;
	if (take_said(gate, view, hash))
		return true;
	if (!differs(gate, view, held))
		return false;
	while (gate_pending_first(view)->passed)
		gate_pending_pop(gate, view);
	gate_mismatch(gate, flow, view, 0, "the SVM sent another datagram");
	return false;
}

void gate_match_release(struct gate *gate, struct flow *flow, uint64_t now)
{
	while (flow->head) {
		struct held *held = flow->head;
		struct view *view = &flow->view[held->epoch & 1];

		assert(held->flow == flow);
		if (held->epoch != gate->committed || view->epoch != held->epoch ||
		    held->epoch < gate->broken_below)
			return;
		if (held->packet.class == PACKET_TCP) {
			if (held->incarnation != flow->incarnation ||
			    !segment_matches(gate, flow, view, held))
				return;
			note_ts_lead(gate, view, &held->packet, now);
		} else if (view->broken || !(held->packet.class == PACKET_MEMBERSHIP
		                                     ? gate_membership_matches(gate, held)
		                                     : datagram_matches(gate, flow, view, held))) {
			return;
		}
		gate_held_release(gate, held, RELEASE_MATCH, now);
	}
}
