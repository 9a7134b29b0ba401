/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Evidence of divergences: theory of operation
 *
 * Goal: to tell an operator which bytes differed, without costing anything while nothing does.
 *
 * When the gate asks for a checkpoint, the primary notes why, and copies the PVM's frames in
 * question, which may leave with the commit. The SVM's bytes are not here: the secondary sends
 * digests. It keeps what the SVM said last (recent.c), and the primary asks it for the packets that
 * a digest was made of. The answer comes when it comes; checkpoint and release do not wait for it
 * (R1), and when the bytes are gone it says so.
 *
 * The answer is in the PVM's numbers, so that both sides' packets have the same offsets, and the
 * first byte at which they differ can be found here.
 *
 * Bounds: two rings, of divergences and of other causes, so that checkpoints by a timer do not
 * drive divergences out; EVIDENCE_PACKETS packets of EVIDENCE_PACKET_MAX bytes for each
 * side. The gate reports once for each cause and epoch.
 *
 * Limits: a packet of the NFQUEUE back end that packet_split() does not cut is kept from its
 * beginning, whatever is in question.
 */
#include "colo-proxy/core/evidence.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

#define RANGE_MAX (EVIDENCE_PACKETS * EVIDENCE_PACKET_MAX)
#define ROW       16u /* the window begins at a multiple of this, one row before the difference */

static_assert(EVIDENCE_WINDOW <= 64, "evidence_window() has one bit for each byte");

struct ring {
	struct evidence *slot;
	uint32_t next, count;
};

struct evidence_ring {
	struct ring ring[2]; /* [true]: divergences */
	uint32_t max, last_id;
};

static const char *const found_names[] = {"not asked", "waiting", "here", "gone"};
static_assert(sizeof(found_names) / sizeof(found_names[0]) == EVIDENCE_FOUND_COUNT,
              "one name for each state");

const char *evidence_found_name(enum evidence_found found)
{
	return (unsigned)found < EVIDENCE_FOUND_COUNT ? found_names[found] : "unknown";
}

bool evidence_is_divergence(enum ckpt_cause cause)
{
	return cause == CKPT_MISMATCH || cause == CKPT_LATE;
}

/* ---- packets ---- */

/* Cuts a superframe's copy down to [seq, seq + len) of its stream. */
static struct frame *cut_segment(struct frame *frame, uint32_t seq, uint32_t len)
{
	struct packet packet;
	struct frame *first = NULL;
	uint32_t skip, most;

	if (packet_parse(&packet, frame) != 0 || packet.class != PACKET_TCP)
		return frame;
	skip = len && seq_gt(seq, packet.tcp.seq) ? seq - packet.tcp.seq : 0;
	if (packet_split(&packet, skip, &first) == 0)
		frame_free(first);
	most = EVIDENCE_PACKET_MAX - packet.payload_off;
	if (!len || len > most)
		len = frame->vnet.gso_size && frame->vnet.gso_size < most ? frame->vnet.gso_size
		                                                          : most;
	if (packet_split(&packet, len, &first) == 0) {
		frame_free(frame);
		frame = first;
	}
	return frame;
}

/* The wire's checksum in place of the pseudo header's sum. */
static void complete_checksum(struct frame *frame)
{
	const struct virtio_net_hdr_v1 *vnet = &frame->vnet;
	uint32_t at = (uint32_t)vnet->csum_start + vnet->csum_offset;
	struct packet packet;
	uint16_t sum;

	if (!(vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || at + 2 > frame->len ||
	    packet_parse(&packet, frame) != 0)
		return;
	sum = packet_l4_checksum(&packet);
	if (!sum)
		return;
	frame->data[at] = (uint8_t)(sum >> 8);
	frame->data[at + 1] = (uint8_t)sum;
}

struct frame *evidence_cut(const struct frame *frame, uint32_t seq, uint32_t len)
{
	struct frame *copy = frame_copy(frame);
	struct virtio_net_hdr_v1 none = {0};

	if (!copy)
		return NULL;
	if (frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE || frame->len > EVIDENCE_PACKET_MAX)
		copy = cut_segment(copy, seq, len);
	complete_checksum(copy);
	copy->vnet = none;
	if (copy->len > EVIDENCE_PACKET_MAX)
		copy->len = EVIDENCE_PACKET_MAX;
	return copy;
}

void evidence_side_clear(struct evidence_side *side)
{
	for (uint32_t i = 0; i < side->count; i++)
		frame_free(side->packet[i].frame);
	memset(side, 0, sizeof(*side));
}

static void evidence_clear(struct evidence *evidence)
{
	evidence_side_clear(&evidence->pvm);
	evidence_side_clear(&evidence->svm);
}

/* ---- the bytes of a side ---- */

/* A part of the bytes in question: offsets as differs_at. */
struct span {
	uint32_t at, len;
	const uint8_t *bytes;
};

/* Where the packet's payload lies in what is compared. False: it has none, or is damaged. */
static bool span_of(const struct evidence *evidence, const struct frame *frame,
                    struct span *ret_span)
{
	/* Parsing writes nothing; the view is for reading only. */
	struct packet packet;
	uint32_t start;

	if (packet_parse(&packet, (struct frame *)frame) != 0 || packet.class == PACKET_OTHER)
		return false;
	if (packet.class != PACKET_TCP) {
		ret_span->at = 0;
		ret_span->bytes = packet_payload(&packet, &ret_span->len);
		return ret_span->len > 0;
	}
	start = packet.tcp.seq + !!(packet.tcp.flags & PACKET_SYN);
	ret_span->at = start - evidence->seq; /* may be before the range: wraps */
	ret_span->len = packet.payload_len;
	ret_span->bytes = frame->data + packet.payload_off;
	return packet.payload_len > 0;
}

static uint32_t spans_of(const struct evidence *evidence, const struct evidence_side *side,
                         struct span spans[EVIDENCE_PACKETS])
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < side->count; i++)
		n += span_of(evidence, side->packet[i].frame, &spans[n]);
	return n;
}

/* The byte at an offset, or -1. */
static int byte_at(const struct span *spans, uint32_t n, uint32_t at)
{
	for (uint32_t i = 0; i < n; i++)
		if (at - spans[i].at < spans[i].len)
			return spans[i].bytes[at - spans[i].at];
	return -1;
}

/* How many bytes the two sides are compared over. */
static uint32_t range_len(const struct evidence *evidence, const struct span *a, uint32_t na,
                          const struct span *b, uint32_t nb)
{
	uint32_t len = 0;

	if (evidence->key.kind == FLOW_TCP)
		return evidence->len < RANGE_MAX ? evidence->len : RANGE_MAX;
	for (uint32_t i = 0; i < na; i++)
		len = a[i].len > len ? a[i].len : len;
	for (uint32_t i = 0; i < nb; i++)
		len = b[i].len > len ? b[i].len : len;
	return len;
}

/* A byte that only one side has said counts when the range is known to differ. */
static void find_difference(struct evidence *evidence)
{
	struct span a[EVIDENCE_PACKETS], b[EVIDENCE_PACKETS];
	uint32_t na = spans_of(evidence, &evidence->pvm, a);
	uint32_t nb = spans_of(evidence, &evidence->svm, b);
	uint32_t len = range_len(evidence, a, na, b, nb);

	if (evidence->cause != CKPT_MISMATCH || !na || !nb)
		return;
	for (uint32_t at = 0; at < len; at++) {
		if (byte_at(a, na, at) == byte_at(b, nb, at))
			continue;
		evidence->differs = true;
		evidence->differs_at = at;
		return;
	}
}

void evidence_window(const struct evidence *evidence, const struct evidence_side *side,
                     uint32_t *ret_at, uint8_t ret_bytes[EVIDENCE_WINDOW], uint64_t *ret_known)
{
	struct span spans[EVIDENCE_PACKETS];
	uint32_t n = spans_of(evidence, side, spans);
	uint32_t row = evidence->differs_at / ROW * ROW;
	uint32_t at = row > ROW ? row - ROW : 0;

	*ret_at = at;
	*ret_known = 0;
	for (uint32_t i = 0; i < EVIDENCE_WINDOW; i++) {
		int byte = byte_at(spans, n, at + i);

		ret_bytes[i] = byte < 0 ? 0 : (uint8_t)byte;
		if (byte >= 0)
			*ret_known |= 1ull << i;
	}
}

/* ---- the ring ---- */

int evidence_ring_new(struct evidence_ring **ret_ring, uint32_t max)
{
	struct evidence_ring *ring = calloc(1, sizeof(*ring));

	if (!ring)
		return -ENOMEM;
	ring->max = max;
	for (int i = 0; i < 2; i++) {
		ring->ring[i].slot = calloc(max, sizeof(struct evidence));
		if (!ring->ring[i].slot) {
			evidence_ring_free(ring);
			return -ENOMEM;
		}
	}
	*ret_ring = ring;
	return 0;
}

void evidence_ring_free(struct evidence_ring *ring)
{
	if (!ring)
		return;
	for (int i = 0; i < 2; i++) {
		for (uint32_t n = 0; n < ring->ring[i].count; n++)
			evidence_clear(&ring->ring[i].slot[n]);
		free(ring->ring[i].slot);
	}
	free(ring);
}

struct evidence *evidence_add(struct evidence_ring *ring, const struct evidence *evidence)
{
	struct ring *own = &ring->ring[evidence_is_divergence(evidence->cause)];
	struct evidence *slot = &own->slot[own->next];

	if (own->count == ring->max)
		evidence_clear(slot);
	else
		own->count++;
	own->next = (own->next + 1) % ring->max;
	*slot = *evidence;
	slot->id = ++ring->last_id;
	return slot;
}

void evidence_answer(struct evidence_ring *ring, uint32_t id, struct evidence_side *side)
{
	struct ring *own = &ring->ring[true];

	for (uint32_t i = 0; i < own->count; i++) {
		struct evidence *slot = &own->slot[i];

		if (slot->id != id || slot->found != EVIDENCE_WAITING)
			continue;
		slot->svm = *side;
		slot->found = side->count ? EVIDENCE_HERE : EVIDENCE_GONE;
		find_difference(slot);
		return;
	}
	evidence_side_clear(side);
}

void evidence_give_up(struct evidence_ring *ring)
{
	struct ring *own = &ring->ring[true];

	for (uint32_t i = 0; i < own->count; i++)
		if (own->slot[i].found == EVIDENCE_WAITING)
			own->slot[i].found = EVIDENCE_GONE;
}

static const struct evidence *newest(const struct evidence_ring *ring, const struct ring *own)
{
	return own->count ? &own->slot[(own->next + ring->max - 1) % ring->max] : NULL;
}

const struct evidence *evidence_last(const struct evidence_ring *ring)
{
	return newest(ring, &ring->ring[true]);
}

/* ---- copies ---- */

static int side_copy(struct evidence_side *to, const struct evidence_side *from)
{
	to->count = 0;
	for (uint32_t i = 0; i < from->count; i++) {
		struct frame *frame = frame_copy(from->packet[i].frame);

		if (!frame)
			return -ENOMEM;
		to->packet[i] = from->packet[i];
		to->packet[i].frame = frame;
		to->count++;
	}
	return 0;
}

/* The i-th oldest of its kind; NULL: there are fewer. */
static const struct evidence *nth(const struct evidence_ring *ring, bool divergence, uint32_t i)
{
	const struct ring *own = &ring->ring[divergence];

	return i < own->count ? &own->slot[(own->next + ring->max - own->count + i) % ring->max]
	                      : NULL;
}

/* Takes the older one of the two kinds, each in its own order. NULL at the end. */
static const struct evidence *take_oldest(const struct evidence_ring *ring, uint32_t next[2])
{
	const struct evidence *other = nth(ring, false, next[0]);
	const struct evidence *divergence = nth(ring, true, next[1]);

	if (!divergence || (other && other->id < divergence->id)) {
		next[0]++;
		return other;
	}
	next[1]++;
	return divergence;
}

int evidence_copy(const struct evidence_ring *ring, uint32_t max, bool any_kind,
                  struct evidence **ret_list, uint32_t *ret_count)
{
	uint32_t others = any_kind ? ring->ring[false].count : 0;
	uint32_t n = others + ring->ring[true].count, count = n < max ? n : max;
	uint32_t next[2] = {ring->ring[false].count - others, 0};
	struct evidence *list = calloc(count ? count : 1, sizeof(*list));
	int r = list ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < n && r == 0; i++) {
		const struct evidence *from = take_oldest(ring, next);
		struct evidence *to;

		if (i < n - count)
			continue;
		to = &list[i - (n - count)];
		*to = *from;
		to->svm.count = 0; /* until it is copied, it is not the list's */
		r = side_copy(&to->pvm, &from->pvm);
		if (r == 0)
			r = side_copy(&to->svm, &from->svm);
	}
	if (r < 0) {
		evidence_list_free(list, count);
		return r;
	}
	*ret_list = list;
	*ret_count = count;
	return 0;
}

void evidence_list_free(struct evidence *list, uint32_t count)
{
	for (uint32_t i = 0; list && i < count; i++)
		evidence_clear(&list[i]);
	free(list);
}

/* ---- words ---- */

bool evidence_offset(const struct evidence *evidence, uint32_t seq, uint32_t *ret_offset)
{
	if (!evidence->has_key || evidence->key.kind != FLOW_TCP || !evidence->has_iss ||
	    seq == evidence->iss)
		return false; /* the SYN is no part of the stream */
	*ret_offset = seq - evidence->iss - 1;
	return true;
}

const char *evidence_flow_text(const struct evidence *evidence, char *buf, size_t len)
{
	if (!evidence->has_key) {
		snprintf(buf, len, "%s", "");
		return buf;
	}
	return flow_key_text(&evidence->key, buf, len);
}

const char *evidence_text(const struct evidence *evidence, char *buf, size_t len)
{
	char flow[FLOW_KEY_TEXT_LEN], at[48] = "";
	uint32_t seq = evidence->seq + (evidence->differs ? evidence->differs_at : 0), offset;

	evidence_flow_text(evidence, flow, sizeof(flow));
	if (evidence_offset(evidence, seq, &offset))
		snprintf(at, sizeof(at), ", stream offset %u", offset);
	else if (evidence->differs && evidence->key.kind != FLOW_TCP)
		snprintf(at, sizeof(at), ", byte %u", evidence->differs_at);
	snprintf(buf, len, "%s in epoch %u: %s%s%s%s", ckpt_cause_name(evidence->cause),
	         evidence->epoch, evidence->what, flow[0] ? ", " : "", flow, at);
	return buf;
}
