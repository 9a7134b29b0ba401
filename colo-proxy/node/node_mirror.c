/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Input, on the primary: what the VM is told is copied to the secondary, numbered (R5). */
#include <errno.h>
#include <string.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

#define FAST_RESERVE (256u << 10)

static struct primary *of(struct node *node)
{
	return &node->p;
}

/* How many of the numbered input frames the PVM has taken. */
uint64_t primary_consumed(struct node *node)
{
	uint64_t taken = 0;

	if (!node->mirror || mirror_taken(node->mirror, &taken) != 0)
		return 0;
	return taken < of(node)->input_index ? taken : of(node)->input_index;
}

static int send_input(struct node *node, uint64_t index, const struct frame *frame)
{
	uint8_t head[INPUT_HEAD_LEN];
	struct iovec iov[2] = {
	        {.iov_base = head, .iov_len = sizeof(head)},
	        {.iov_base = frame->data, .iov_len = frame->len},
	};

	/* Input may fill the queue only so far that what R7 needs still gets through. */
	if (link_queued(node->link, LINK_FAST) + FAST_RESERVE > node->config->link_buffer_bytes)
		return -EAGAIN;
	input_pack_head(head, index, frame);
	return link_send(node->link, LINK_FAST, MSG_INPUT, gate_epoch(node->gate), iov, 2);
}

void primary_send_unsent(struct node *node)
{
	struct input_log *log = &of(node)->unsent;

	while (log->head && send_input(node, log->head->index, log->head->frame) == 0)
		input_log_pop(log);
}

/*
 * What is in front of the cut is in the checkpoint. But the lineage from before it still runs, and
 * goes on if the primary dies now: it hears that, too, in order, until the checkpoint is committed
 * or the room is needed for what no checkpoint has.
 */
static void forget_unsent(struct primary *p, uint64_t down_to_bytes)
{
	while (p->unsent.head && p->unsent.head->index < p->input_cut &&
	       p->unsent.bytes > down_to_bytes)
		input_log_pop(&p->unsent);
}

void primary_input_committed(struct node *node)
{
	forget_unsent(of(node), 0);
}

static void forward_input(struct node *node, struct frame *frame)
{
	struct primary *p = of(node);
	uint64_t index = p->input_index++, limit = node->config->max_input_log_bytes;

	frame->since = cut_since(node, frame);
	node->copied_packets++;
	node->copied_bytes += frame->len;
	node_capture(node, frame);
	if (!gate_is_protected(node->gate) || !link_is_up(node->link)) {
		frame_free(frame);
		return;
	}
	primary_send_unsent(node);
	if (!p->unsent.head && send_input(node, index, frame) == 0) {
		frame_free(frame);
		return;
	}
	forget_unsent(p, frame->len < limit ? limit - frame->len : 0);
	if (input_log_push(&p->unsent, index, frame, limit) < 0)
		gate_break(node->gate, CKPT_PRESSURE, "input for the secondary was lost",
		           node_steady(node));
}

void primary_mirror(struct node *node)
{
	struct frame *list;
	int n;

	do {
		list = NULL;
		n = mirror_receive(node->mirror, &list, FRAME_BATCH);
		while (list) {
			struct frame *next = list->next;

			list->next = NULL;
			forward_input(node, list);
			list = next;
		}
	} while (n == (int)FRAME_BATCH);
	if (n == -ENOBUFS)
		gate_break(node->gate, CKPT_PRESSURE, "copies of input were lost",
		           node_steady(node));
	else if (n < 0 && n != -EAGAIN)
		log_error("cannot copy input for the secondary: %s", strerror(-n));
}

void primary_mirror_ready(void *ctx, uint32_t events)
{
	struct node *node = ctx;

	(void)events;
	primary_mirror(node);
	/* After a loss, and for frames from before the mirror: needs a moment without any. */
	if (!mirror_aligned(node->mirror))
		mirror_align(node->mirror, node->tap_fd);
}

/* The PVM stands still: which input it has taken. */
void primary_input_cut(struct node *node)
{
	struct primary *p = of(node);
	uint64_t taken;

	primary_mirror(node);
	if (mirror_taken(node->mirror, &taken) == 0)
		p->input_cut = taken < p->input_index ? taken : p->input_index;
	else
		p->input_cut = p->input_index;
}
