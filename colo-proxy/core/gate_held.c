/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The held frames: two lists, of all and of the flow, and what they count.
 *
 * While the gate lives, frames enter and leave the lists only here. A frame of which the SVM has
 * said only the beginning is cut in two, so that the beginning can go.
 */
#include "colo-proxy/core/gate_private.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "colo-proxy/core/seq.h"

#define SPLIT_AFTER_NS 1000000ull /* the SVM is usually faster than this */
#define SPLIT_LOOKS    32u

static void count(uint64_t *packets, uint64_t *bytes, const struct frame *frame)
{
	(*packets)++;
	*bytes += frame->len;
}

void gate_let_out(struct gate *gate, struct frame *frame, const struct packet *packet,
                  enum release_why why, uint64_t held_ns)
{
	struct gate_class_stats *stats = &gate->stats.by_class[packet->class];

	if (why == RELEASE_MATCH)
		count(&stats->matched_packets, &stats->matched_bytes, frame);
	else if (why == RELEASE_COMMIT)
		count(&stats->committed_packets, &stats->committed_bytes, frame);
	else if (why == RELEASE_BYPASS)
		count(&stats->bypassed_packets, &stats->bypassed_bytes, frame);
	else
		count(&stats->unprotected_packets, &stats->unprotected_bytes, frame);
	if ((why == RELEASE_MATCH || why == RELEASE_COMMIT) && held_ns > lag_wait_ns(&gate->lag))
		stats->late++;
	gate->ops->release(gate->ctx, frame, packet, why, held_ns);
}

static void unlink_all(struct gate *gate, struct held *held)
{
	*(held->older ? &held->older->newer : &gate->oldest) = held->newer;
	*(held->newer ? &held->newer->older : &gate->newest) = held->older;
	if (gate->first_of_epoch == held)
		gate->first_of_epoch = held->newer;
	gate->stats.now_packets--;
	gate->stats.now_bytes -= held->frame->len;
}

void gate_held_free(struct gate *gate, struct held *held)
{
	if (held->whole)
		frame_free(held->whole->frame);
	free(held->whole);
	pool_put(&gate->held_pool, held);
}

/* The fragments before the last one, which have no flow. */
static void release_pieces(struct gate *gate, struct whole *whole, uint64_t now)
{
	while (whole->pieces) {
		struct held *piece = whole->pieces;

		whole->pieces = piece->flow_next;
		gate_held_release(gate, piece, RELEASE_MATCH, now);
	}
}

/* The SVM could not say it before its lineage was committed. */
static void note_lag(struct gate *gate, const struct held *held, uint64_t now)
{
	uint64_t from = held->arrived > gate->committed_at ? held->arrived : gate->committed_at;

	lag_measured(&gate->lag, now - from, now);
}

void gate_held_release(struct gate *gate, struct held *held, enum release_why why, uint64_t now)
{
	struct flow *flow = held->flow;

	if (flow) {
		assert(flow->head == held); /* a flow's frames leave in order */
		flow->head = held->flow_next;
		if (!flow->head)
			flow->tail = NULL;
	}
	if (why == RELEASE_MATCH)
		note_lag(gate, held, now);
	/* Otherwise all of an epoch leaves, and the pieces did so before. */
	if (why == RELEASE_MATCH && held->whole)
		release_pieces(gate, held->whole, now);
	if (flow && held->packet.class == PACKET_TCP && why != RELEASE_UNPROTECTED &&
	    gate->compared)
		gate_spoken_released(gate, flow, held);
	unlink_all(gate, held);
	gate_let_out(gate, held->frame, &held->packet, why, now - held->arrived);
	gate_held_free(gate, held);
}

int gate_held_append(struct gate *gate, struct frame *frame, const struct packet *packet,
                     struct flow *flow, uint64_t now)
{
	struct held *held = pool_get(&gate->held_pool);

	if (!held)
		return -ENOMEM;
	*held = (struct held){
	        .older = gate->newest,
	        .flow = flow,
	        .frame = frame,
	        .packet = *packet,
	        .arrived = now,
	        .epoch = gate->epoch,
	        .incarnation = flow ? flow->incarnation : 0,
	};
	if (packet->class == PACKET_TCP)
		held->end = packet->tcp.seq + packet_seq_len(packet);
	*(gate->newest ? &gate->newest->newer : &gate->oldest) = held;
	gate->newest = held;
	if (!gate->first_of_epoch)
		gate->first_of_epoch = held;
	if (flow) {
		*(flow->tail ? &flow->tail->flow_next : &flow->head) = held;
		flow->tail = held;
	}
	gate->stats.now_packets++;
	gate->stats.now_bytes += frame->len;
	if (gate->stats.now_packets > gate->stats.high_packets)
		gate->stats.high_packets = gate->stats.now_packets;
	if (gate->stats.now_bytes > gate->stats.high_bytes)
		gate->stats.high_bytes = gate->stats.now_bytes;
	count(&gate->stats.by_class[packet->class].held_packets,
	      &gate->stats.by_class[packet->class].held_bytes, frame);
	return 0;
}

/* Puts a frame that was cut off the beginning of `held` in front of it, with its age. -ENOMEM. */
static int insert_before(struct gate *gate, struct held *held, struct frame *frame,
                         const struct packet *packet, uint32_t first_segment)
{
	struct held *first = pool_get(&gate->held_pool);

	if (!first)
		return -ENOMEM;
	*first = *held;
	first->frame = frame;
	first->packet = *packet;
	first->end = packet->tcp.seq + packet_seq_len(packet);
	first->newer = held;
	first->flow_next = held;
	first->first_segment = first_segment;
	first->remembered = held->remembered = 0; /* both are hashed when they go */
	held->flow->head = first;                 /* held was the head */
	*(held->older ? &held->older->newer : &gate->oldest) = first;
	held->older = first;
	if (gate->first_of_epoch == held)
		gate->first_of_epoch = first;
	gate->stats.now_packets++;
	gate->stats.now_bytes += frame->len;
	count(&gate->stats.by_class[packet->class].held_packets,
	      &gate->stats.by_class[packet->class].held_bytes, frame);
	return 0;
}

const struct view *gate_held_coverage(const struct gate *gate, const struct held *held)
{
	const struct flow *flow = held->flow;
	const struct view *view;

	if (!flow || flow->head != held || held->packet.class != PACKET_TCP ||
	    held->incarnation != flow->incarnation || held->epoch < gate->broken_below)
		return NULL;
	view = &flow->view[held->epoch & 1];
	return view->epoch == held->epoch && view->covered_known ? view : NULL;
}

/*
 * A frame, mostly a superframe, of which the SVM has said only the beginning: the SVM's congestion
 * window may be the smaller one, and opens when the client acknowledges what is held here. So the
 * beginning goes out by itself. Returns its length, 0 when the frame is no such one.
 */
static uint32_t covered_part(const struct gate *gate, const struct held *held)
{
	const struct view *view = gate_held_coverage(gate, held);
	uint32_t part;

	if (!view || seq_leq(view->covered_end, held->packet.tcp.seq))
		return 0;
	part = view->covered_end - held->packet.tcp.seq;
	return part < held->packet.payload_len ? part : 0;
}

static void split(struct gate *gate, struct held *held, uint32_t part, uint64_t now)
{
	struct frame *frame;
	struct packet first;
	uint32_t first_segment = held->first_segment;
	uint32_t len = held->frame->len;

	gate_spoken_split(held, part);
	if (packet_split(&held->packet, part, &frame) != 0) {
		held->first_segment = first_segment;
		return;
	}
	/* The part in front is counted as a frame; a linked packet has grown by its header. */
	gate->stats.now_bytes += held->frame->len;
	gate->stats.now_bytes -= len;
	gate->stats.by_class[PACKET_TCP].held_bytes += held->frame->len;
	gate->stats.by_class[PACKET_TCP].held_bytes -= len;
	if (packet_parse(&first, frame) != 0 ||
	    insert_before(gate, held, frame, &first, first_segment) != 0) {
		/* The bytes are not lost: the PVM sends them again when nobody acknowledges. */
		frame_free(frame);
		return;
	}
	gate->stats.frames_cut++;
	gate_match_release(gate, held->flow, now);
}

uint64_t gate_held_split_stuck(struct gate *gate, uint64_t now)
{
	struct held *held = gate->first_of_epoch;

	for (uint32_t i = 0; held && i < SPLIT_LOOKS; i++) {
		struct held *next = held->newer;
		uint32_t part = covered_part(gate, held);

		if (part && held->arrived + SPLIT_AFTER_NS > now)
			return held->arrived + SPLIT_AFTER_NS;
		if (part)
			split(gate, held, part, now);
		held = next;
	}
	return UINT64_MAX;
}
