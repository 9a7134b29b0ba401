/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The SVM's TCP stream against what the PVM has said.
 *
 * A digest's range is verified when the held frames of its epoch and incarnation have all of its
 * bytes, wherever their boundaries are: the hash over them must equal the SVM's. Coverage then
 * moves to the range's end. A range that begins behind it waits for what is between, which was lost
 * on its way to the shadow and is told later; one that begins in front of it is a difference,
 * unless it begins in the checkpoint. A FIN takes one number behind the data, and a SYN one by
 * itself.
 */
#include "colo-proxy/core/gate_private.h"

#include <string.h>

#include "colo-proxy/core/seq.h"

#define COVERED_SPAN (1u << 30) /* no more is remembered of what is covered */

enum verdict {
	VERDICT_EQUAL,
	VERDICT_WAIT, /* the PVM has not said it all yet */
	VERDICT_DIFFERENT,
};

/* The held frame of this view that has the stream's byte at `seq`; *ret_fin: its FIN is there. */
static struct held *find_byte(const struct flow *flow, const struct view *view, uint32_t seq,
                              bool *ret_fin)
{
	*ret_fin = false;
	for (struct held *held = flow->head; held; held = held->flow_next) {
		uint32_t start, end;

		if (held->epoch != view->epoch || held->incarnation != flow->incarnation)
			continue;
		start = gate_held_data(held);
		end = start + held->packet.payload_len;
		if (seq_leq(start, seq) && seq_lt(seq, end))
			return held;
		if (seq == end && (held->packet.tcp.flags & PACKET_FIN))
			*ret_fin = true;
	}
	return NULL;
}

uint32_t gate_verify_held_end(const struct flow *flow, const struct view *view, uint32_t seq)
{
	const struct held *held;
	bool fin;

	while ((held = find_byte(flow, view, seq, &fin)))
		seq = gate_held_data(held) + held->packet.payload_len;
	return seq;
}

/* The range is equal: the frames that were looked at are those that prove it. */
static void note_proved(struct gate *gate, struct flow *flow, const struct view *view, uint32_t seq,
                        uint32_t len)
{
	for (uint32_t done = 0; done < len;) {
		bool fin;
		struct held *held = find_byte(flow, view, seq + done, &fin);
		uint32_t skip = seq + done - gate_held_data(held);
		uint32_t part = held->packet.payload_len - skip;

		if (part > len - done)
			part = len - done;
		gate_spoken_proved(gate, flow, held, seq + done, part, NULL);
		done += part;
	}
}

/* Copies the range, which begins in `first`, from the frames that it lies in. */
static enum verdict join_bytes(struct gate *gate, const struct flow *flow, const struct view *view,
                               const struct held *first, uint32_t seq, uint32_t len)
{
	const struct held *held = first;
	bool fin = false;

	for (uint32_t done = 0; done < len;) {
		uint32_t skip, part;

		if (done)
			held = find_byte(flow, view, seq + done, &fin);
		if (!held)
			return fin ? VERDICT_DIFFERENT : VERDICT_WAIT;
		skip = seq + done - gate_held_data(held);
		part = held->packet.payload_len - skip;
		if (part > len - done)
			part = len - done;
		memcpy(gate->joined + done, held->frame->data + held->packet.payload_off + skip,
		       part);
		done += part;
	}
	return VERDICT_EQUAL;
}

/* Compares `len` bytes from `seq` on with the hash. */
static enum verdict verify_bytes(struct gate *gate, struct flow *flow, const struct view *view,
                                 uint32_t seq, uint32_t len, const uint8_t hash[16])
{
	uint8_t all[16];
	bool fin;
	struct held *first = find_byte(flow, view, seq, &fin);
	enum verdict verdict;
	uint32_t skip;

	if (!first)
		return fin ? VERDICT_DIFFERENT : VERDICT_WAIT;
	skip = seq - gate_held_data(first);
	if (len <= first->packet.payload_len - skip) {
		/* The usual case: the range lies in one frame. */
		digest_stream(&gate->key, first->frame->data + first->packet.payload_off + skip,
		              len, all);
		if (memcmp(all, hash, 16) != 0)
			return VERDICT_DIFFERENT;
		gate_spoken_proved(gate, flow, first, seq, len, all);
		return VERDICT_EQUAL;
	}
	/* Together they are hashed faster than one after the other. */
	verdict = join_bytes(gate, flow, view, first, seq, len);
	if (verdict != VERDICT_EQUAL)
		return verdict;
	digest_stream(&gate->key, gate->joined, len, all);
	if (memcmp(all, hash, 16) != 0)
		return VERDICT_DIFFERENT;
	note_proved(gate, flow, view, seq, len);
	return VERDICT_EQUAL;
}

static enum verdict verify_syn(struct gate *gate, struct flow *flow, const struct view *view,
                               const struct digest *said)
{
	for (struct held *held = flow->head; held; held = held->flow_next) {
		uint8_t hash[16];

		if (held->epoch != view->epoch || held->incarnation != flow->incarnation ||
		    !(held->packet.tcp.flags & PACKET_SYN) || held->packet.tcp.seq != said->seq)
			continue;
		digest_syn(&gate->key, &held->packet.tcp, hash);
		if (memcmp(hash, said->hash, 16) != 0)
			return VERDICT_DIFFERENT;
		gate_spoken_syn(gate, flow, held);
		return VERDICT_EQUAL;
	}
	return VERDICT_WAIT;
}

static enum verdict verify_fin(struct gate *gate, struct flow *flow, const struct view *view,
                               uint32_t seq)
{
	bool fin;

	if (find_byte(flow, view, seq, &fin))
		return VERDICT_DIFFERENT;
	if (!fin)
		return VERDICT_WAIT;
	gate_spoken_fin(gate, flow, view->epoch, seq);
	return VERDICT_EQUAL;
}

/* Verifies the next part of a digest that begins where coverage ends; advances both. */
static enum verdict verify_part(struct gate *gate, struct flow *flow, struct view *view,
                                struct digest *said)
{
	bool fin = said->tcp_flags & PACKET_FIN;
	enum verdict verdict;
	uint32_t part;

	if (said->tcp_flags & PACKET_SYN) {
		part = said->len;
		verdict = verify_syn(gate, flow, view, said);
	} else if (said->len > fin) {
		part = said->len - fin;
		verdict = verify_bytes(gate, flow, view, said->seq, part, said->hash);
	} else {
		part = 1;
		verdict = verify_fin(gate, flow, view, said->seq);
	}
	if (verdict != VERDICT_EQUAL)
		return verdict;
	said->seq += part;
	said->len -= part;
	view->covered_end = seq_max(view->covered_end, said->seq);
	if (seq_diff(view->covered_end, view->covered_start) > (int32_t)COVERED_SPAN)
		view->covered_start = view->covered_end - COVERED_SPAN;
	return VERDICT_EQUAL;
}

static const char *different_words(const struct digest *said)
{
	if (said->tcp_flags & PACKET_SYN)
		return "the SVM's SYN has other options";
	if (said->len == !!(said->tcp_flags & PACKET_FIN))
		return "the SVM's stream ends, the PVM's goes on";
	return "the SVM's stream has other bytes";
}

/* The SVM repeats what is in the checkpoint, and only its FIN is new. */
static void trim(struct digest *said, uint32_t covered_end)
{
	if ((said->tcp_flags & PACKET_FIN) && seq_lt(said->seq, covered_end) &&
	    said->seq + said->len - 1 == covered_end) {
		said->seq = covered_end;
		said->len = 1;
	}
}

void gate_verify_pending(struct gate *gate, struct flow *flow, struct view *view)
{
	while (view->last && !view->broken) {
		struct digest *said = &gate_pending_first(view)->digest;

		if (!view->covered_known) {
			view->covered_known = true;
			view->covered_start = view->covered_end = said->seq;
		}
		if (said->len == 0 ||
		    (view->covered_low_open && seq_leq(said->seq + said->len, view->covered_end))) {
			gate_pending_pop(gate, view);
			continue;
		}
		if (seq_gt(said->seq, view->covered_end))
			return; /* what is between is still to be told */
		if (view->covered_low_open)
			trim(said, view->covered_end);
		if (said->seq != view->covered_end && !view->covered_low_open) {
			gate_mismatch(gate, flow, view, said->seq,
			              "the SVM's stream goes on at another place");
			return;
		}
		switch (verify_part(gate, flow, view, said)) {
		case VERDICT_EQUAL:
			break;
		case VERDICT_WAIT:
			return;
		case VERDICT_DIFFERENT:
			gate_mismatch(gate, flow, view, said->seq, different_words(said));
			return;
		}
	}
}
