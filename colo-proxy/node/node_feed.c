/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Input, on the secondary: the log, what the SVM is fed from it, and fed again (R5). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "colo-proxy/core/seq.h"
#include "colo-proxy/node/node_private.h"

#define FEED_RETRY_NS   (1 * MS)
#define REFEED_RETRY_NS (20 * MS)

static struct secondary *of(struct node *node)
{
	return &node->s;
}

void secondary_count_injected(struct node *node, const struct frame *frame)
{
	of(node)->injected++;
	of(node)->injected_bytes += frame->len;
}

/* The lineage that runs has heard it by another number: see node_cut.c. */
static bool is_heard(const struct secondary *s, const struct input *input)
{
	return input->frame->since > s->lineage;
}

/* Feeds the log to the lineage that runs, as far as its tap takes it. */
void secondary_feed(struct node *node)
{
	struct secondary *s = of(node);

	while (s->feeding && s->next_to_feed) {
		struct input *input = s->next_to_feed;
		struct frame *frame;
		int r;

		if (is_heard(s, input)) {
			s->next_to_feed = input->next;
			continue;
		}
		frame = frame_copy(input->frame);
		if (!frame) {
			node_arm(node, &s->feed_timer, FEED_RETRY_NS);
			return;
		}
		shadow_input(node->shadow, frame, node_steady(node));
		r = inject_send(node->inject, frame);
		if (r == -EAGAIN || r == -ENOBUFS) {
			frame_free(frame);
			node_arm(node, &s->feed_timer, FEED_RETRY_NS);
			return;
		}
		if (r == 0)
			secondary_count_injected(node, frame);
		else
			s->log.dropped++; /* malformed for the kernel: the PVM's was as well */
		frame_free(frame);
		s->next_to_feed = input->next;
	}
	if (s->feeding && s->behind_since) {
		hist_add(&node->catchup_hist, loop_clock() - s->behind_since);
		s->behind_since = 0;
	}
}

/* The segment of the log that has the byte at seq, once more. */
void secondary_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	struct node *node = ctx;
	struct secondary *s = of(node);
	struct input *input = s->log.head;

	if (!s->feeding)
		return;
	while (input && input != s->next_to_feed &&
	       !(input->segment && seq_leq(input->seq, seq) && seq_lt(seq, input->end) &&
	         flow_key_equal(&input->key, key)))
		input = input->next;
	if (input && input != s->next_to_feed) {
		struct frame *frame = frame_copy(input->frame);

		if (frame) {
			shadow_input_again(node->shadow, frame, node_steady(node));
			inject_send(node->inject, frame); /* if it is full: asked for again */
			frame_free(frame);
		}
	}
	if (!s->refeed_timer.at)
		node_arm(node, &s->refeed_timer, REFEED_RETRY_NS);
}

void secondary_refeed_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (node->shadow && of(node)->feeding && shadow_ask_again(node->shadow))
		node_arm(node, &of(node)->refeed_timer, REFEED_RETRY_NS);
}

/* Notes which part of which stream the newest input is. */
static void note_segment(struct input *input)
{
	struct packet packet;

	if (packet_parse(&packet, input->frame) != 0 || packet.class != PACKET_TCP ||
	    (packet.tcp.flags & PACKET_SYN) || !packet_seq_len(&packet) ||
	    packet_flow_key(&packet, PACKET_TO_VM, &input->key) != 0)
		return;
	input->segment = true;
	input->seq = packet.tcp.seq;
	input->end = packet.tcp.seq + packet_seq_len(&packet);
}

void secondary_feed_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	secondary_feed(node);
}

/* Forgets what no checkpoint to come is without, and the SVM has acknowledged. */
void secondary_forget_input(struct node *node, uint64_t below)
{
	struct secondary *s = of(node);

	while (s->log.head && s->log.head != s->next_to_feed && s->log.head->index < below &&
	       (!s->log.head->segment ||
	        shadow_has_acked(node->shadow, &s->log.head->key, s->log.head->end)))
		input_log_pop(&s->log);
}

/* A full log: what is only kept in case that the SVM loses it goes first. */
static void make_room(struct node *node, uint32_t len)
{
	struct secondary *s = of(node);

	while (s->log.head && s->log.head != s->next_to_feed && s->log.head->index < s->consumed &&
	       s->log.bytes + len > node->config->max_input_log_bytes)
		input_log_pop(&s->log);
}

void secondary_input(struct node *node, const uint8_t *payload, size_t len)
{
	struct secondary *s = of(node);
	struct frame *frame;
	uint64_t index;
	int r = input_unpack(&index, &frame, payload, len);

	if (r == -EPROTO) {
		link_drop(node->link, "an input frame of an impossible length");
		return;
	}
	/* A checkpoint can overtake input that is in it: there is no order between the channels. */
	if (r == 0 && index < s->lineage_cut) {
		frame_free(frame);
		return;
	}
	if (r == 0) {
		make_room(node, frame->len);
		r = input_log_push(&s->log, index, frame, node->config->max_input_log_bytes);
	}
	if (r < 0) {
		node_send(node, LINK_FAST, MSG_BROKEN, s->lineage, NULL, 0);
		return;
	}
	note_segment(s->log.tail);
	if (!s->next_to_feed)
		s->next_to_feed = s->log.tail;
	secondary_feed(node);
}

void secondary_consumed(struct node *node, uint32_t epoch, uint64_t consumed)
{
	struct secondary *s = of(node);

	s->primary_epoch = epoch;
	if (node->role.state != ROLE_STANDBY || epoch != s->lineage || !s->feeding)
		return;
	s->consumed = consumed;
	secondary_forget_input(node, consumed);
}

/* Throws away what is in the SVM's tap: it belongs to the lineage that ends. */
void secondary_empty_tap(struct node *node)
{
	static uint8_t scratch[FRAME_MAX_LEN + 64];

	while (read(node->tap_fd, scratch, sizeof(scratch)) > 0)
		;
}
