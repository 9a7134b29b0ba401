/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A range of the SVM's stream that goes on behind what the PVM has said.
 *
 * A digest is verified as a whole, so the PVM's part of such a range waits for the PVM's next
 * bytes. Mostly these come at once. They do not when the PVM waits in turn for the client to
 * acknowledge that part (Nagle's algorithm, RFC 9293 section 3.7.4, or a window that is full): then
 * nothing moves before a late checkpoint. So the secondary, which keeps what its VM said last
 * (recent.h), is asked for the same range in two. The answer is its word for what the SVM said, as
 * the digest was, and one that does not come changes nothing.
 *
 * Limits: an answer costs the secondary a look through what it keeps, so asks are few, and those of
 * the oldest held frames go first.
 */
#include "colo-proxy/core/gate_private.h"

#include <errno.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

#define CUT_AFTER_NS 4000000ull /* a PVM that is not held up goes on sooner */
#define CUT_EVERY_NS 2000000ull
#define CUT_LOOKS    32u

/* The range that the head of its flow may wait for, NULL: none. */
static struct pending *waited_for(const struct gate *gate, const struct held *held)
{
	const struct view *view = gate_held_coverage(gate, held);
	struct pending *first;

	if (!view || view->broken || !view->last)
		return NULL;
	first = gate_pending_first(view);
	if ((first->digest.tcp_flags & PACKET_SYN) || seq_gt(first->digest.seq, view->covered_end))
		return NULL;
	return first;
}

static uint64_t latest(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t later = a > b ? a : b;

	return later > c ? later : c;
}

/* Asks if the PVM has stopped within the range. */
static void ask(struct gate *gate, const struct held *held, struct pending *first, uint64_t now)
{
	const struct view *view = &held->flow->view[held->epoch & 1];
	uint32_t end = gate_verify_held_end(held->flow, view, first->digest.seq);

	if (end == first->digest.seq || seq_geq(end, digest_data_end(&first->digest)) ||
	    (first->cut_asked && first->cut_at == end))
		return;
	first->cut_asked = true;
	first->cut_at = end;
	gate->cut_asked_at = now;
	gate->ops->cut(gate->ctx, held->epoch, &first->digest, end);
}

uint64_t gate_cut_stuck(struct gate *gate, uint64_t now)
{
	struct held *held = gate->first_of_epoch;

	if (!gate->ops->cut || gate->epoch != gate->committed)
		return UINT64_MAX;
	for (uint32_t i = 0; held && i < CUT_LOOKS; i++, held = held->newer) {
		struct pending *first = waited_for(gate, held);
		uint64_t due;

		if (!first)
			continue;
		due = latest(first->at, held->flow->tail->arrived, gate->committed_at) +
		      CUT_AFTER_NS;
		if (due < gate->cut_asked_at + CUT_EVERY_NS)
			due = gate->cut_asked_at + CUT_EVERY_NS;
		if (due > now)
			return due;
		ask(gate, held, first, now);
	}
	return UINT64_MAX;
}

/* The range that was asked for, if it still waits as it was. */
static struct pending *find_asked(const struct view *view, const struct digest_cut *cut)
{
	struct pending *pending = view->last;

	for (uint32_t i = 0; i < view->pending; i++, pending = pending->next) {
		if (pending->cut_asked && pending->cut_at == cut->at &&
		    pending->digest.seq == cut->whole.seq &&
		    pending->digest.len == cut->whole.len &&
		    memcmp(pending->digest.hash, cut->whole.hash, sizeof(cut->whole.hash)) == 0)
			return pending;
	}
	return NULL;
}

static bool cut_sane(const struct digest_cut *cut)
{
	const struct digest *whole = &cut->whole;

	return gate_digest_sane(whole) && whole->kind == DIGEST_SEGMENT &&
	       !(whole->tcp_flags & PACKET_SYN) && seq_lt(whole->seq, cut->at) &&
	       seq_lt(cut->at, digest_data_end(whole));
}

int gate_digest_cut(struct gate *gate, uint32_t lineage, const struct digest_cut *cut, uint64_t now)
{
	struct flow *flow;
	struct view *view;
	struct pending *pending;
	struct digest rest = cut->whole;

	if (!cut_sane(cut) || (gate->protected && lineage > gate->epoch))
		return -EPROTO;
	flow = (struct flow *)flow_table_peek(&gate->flows, &cut->whole.key);
	view = flow ? &flow->view[lineage & 1] : NULL;
	pending = view && view->epoch == lineage && !view->broken ? find_asked(view, cut) : NULL;
	if (!gate->protected || !pending) {
		gate->stats.digests_stale++;
		return 0;
	}
	gate->now = now;
	gate->stats.ranges_cut++;
	rest.len = cut->whole.seq + cut->whole.len - cut->at;
	rest.seq = cut->at;
	memcpy(rest.hash, cut->rest, sizeof(rest.hash));
	pending->digest.len = cut->at - cut->whole.seq;
	pending->digest.tcp_flags &= (uint8_t)~PACKET_FIN;
	memcpy(pending->digest.hash, cut->head, sizeof(cut->head));
	gate_pending_add(gate, flow, view, &rest);
	gate_verify(gate, flow, view);
	gate_match_release(gate, flow, now);
	return 0;
}
