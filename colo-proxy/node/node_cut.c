/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The input cut (R5): theory of operation
 *
 * A checkpoint must be able to say exactly which input is in it. The VM's tap counts what QEMU
 * takes, but QEMU's main loop still takes one frame after it has stopped the VM, keeps it, and
 * gives it to the VM when that runs on (net/tap.c: tap_send reads before it asks whether the VM can
 * take; in net/net.c the queue is flushed at resume). Such a frame is counted, is not in the
 * checkpoint, and is heard by one VM only.
 *
 * So the VM's input is diverted from the moment at which it is allowed to stop, and what its tap
 * holds is left to it to take first, for at most DRAIN_NS. What a busy VM has not taken by then is
 * taken back out of its tap: QEMU finds nothing to take while the VM stands still. What was taken
 * back and what was diverted is poured in, in order, when the VM runs on, before the diversion
 * ends. The mirror has numbered what was taken back already, and the tap has counted it as taken,
 * so that it is in front of the cut; poured in, it gets a number behind the cut and reaches the new
 * lineage as the PVM, once. The old lineage has heard it by its first number (too early, which
 * nobody learns of: what the SVM says to it waits for the PVM to say the same), and may survive the
 * primary; so the second number says since which lineage it is to be heard. Clients see a few
 * milliseconds more of a pause that they have anyway.
 *
 * A survivor's input is diverted all the time, while connections need their numbers mapped: it is
 * mapped on its way from the diversion into the tap. Around a cut it is only left to wait there.
 * What is taken back has been mapped already.
 *
 * Limit: a frame that QEMU could not give to a VM whose receive ring is full is in QEMU's hands;
 * QEMU drops it when the VM stops, as a full ring drops, for both VMs.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/tapdev.h"
#include "colo-proxy/node/node_private.h"

#define DRAIN_NS      (2 * MS)
#define LOOK_NS       (MS / 10)
#define POUR_RETRY_NS (1 * MS)

/* Everything that was diverted goes into the VM's tap. False when that is full. */
static bool pour(struct node *node)
{
	struct frame_queue *queue = &node->p.diverted;

	for (;;) {
		struct frame *frame = frame_queue_pop(queue);
		struct frame *list = NULL;
		int r;

		if (!frame) {
			if (intercept_receive(node->intercept, &list, FRAME_BATCH) <= 0)
				return true;
			while (list) {
				struct frame *next = list->next;

				list->next = NULL;
				if (node->shadow)
					shadow_input(node->shadow, list, node_steady(node));
				frame_queue_push(queue, list);
				list = next;
			}
			continue;
		}
		r = inject_send(node->inject, frame);
		if (r == -EAGAIN || r == -ENOBUFS) {
			frame_queue_unpop(queue, frame);
			return false;
		}
		if (r == 0 && frame->since) {
			frame_queue_push(&node->p.poured, frame);
			continue;
		}
		if (r < 0)
			log_warn("input of %u bytes that the kernel refuses: %s", frame->len,
			         strerror(-r));
		frame_free(frame);
	}
}

void cut_taken(struct node *node, uint32_t epoch)
{
	struct primary *p = &node->p;
	struct frame *frame = p->diverted.head;

	for (; p->taken_back; p->taken_back--, frame = frame->next)
		frame->since = epoch;
	/* The mirror has been read to its end: copies that are missing now were lost. */
	frame_queue_clear(&p->poured);
}

uint32_t cut_since(struct node *node, const struct frame *frame)
{
	struct frame_queue *poured = &node->p.poured;
	struct frame *first = frame_queue_pop(poured);
	uint32_t since = 0;

	if (!first)
		return 0;
	if (first->len == frame->len && memcmp(first->data, frame->data, frame->len) == 0)
		since = first->since;
	else
		frame_queue_clear(poured); /* a copy was lost: which is which is not known */
	frame_free(first);
	return since;
}

/*
 * The PVM's QEMU has died or closed its channel before the VM stood still. What was taken back has
 * its number, and the lineage that may go on has it by that: poured in, it would be heard twice.
 */
static void forget_taken_back(struct primary *p)
{
	for (; p->taken_back; p->taken_back--)
		frame_free(frame_queue_pop(&p->diverted));
}

void cut_end(struct node *node)
{
	struct primary *p = &node->p;
	int r;

	loop_timer_clear(node->loop, &p->cut_timer);
	if (!p->input_diverted)
		return;
	forget_taken_back(p);
	if (!pour(node)) {
		p->pouring = true;
		node_arm(node, &p->cut_timer, POUR_RETRY_NS);
		return;
	}
	p->pouring = false;
	p->input_diverted = false;
	if (node->intercept_source.added) {
		loop_set_events(node->loop, &node->intercept_source, EPOLLIN); /* see cut_map() */
		return;
	}
	r = intercept_set(node->intercept, false);
	if (r < 0)
		log_error("the VM's input stays diverted: %s; it hears nothing", strerror(-r));
	pour(node); /* what came between the two */
}

/* What QEMU has not taken waits for the new epoch, in front of what is diverted. */
static void take_back(struct node *node)
{
	int header = tapdev_header(node->tap_fd);
	struct tapdev_reader reader = {.header = header > 0 ? (size_t)header : 0};
	struct frame_queue queue = {0};
	struct frame *frame;
	unsigned n = 0;

	while (header > 0 && tapdev_read(&reader, node->tap_fd, &frame) == 0) {
		frame_queue_push(&queue, frame);
		n++;
	}
	tapdev_reader_clear(&reader);
	if (!n)
		return;
	log_debug("input: %u frames were not taken and wait for the next epoch", n);
	while ((frame = frame_queue_pop(&node->p.diverted)))
		frame_queue_push(&queue, frame);
	node->p.diverted = queue;
	node->p.taken_back = n;
}

static void look(struct node *node, uint64_t now)
{
	struct primary *p = &node->p;

	if (tapdev_pending(node->tap_fd) && now < p->cut_deadline) {
		loop_timer_set(node->loop, &p->cut_timer, now + LOOK_NS);
		return;
	}
	/* Also of a pouring that this cut has ended: let_stop() is for once. */
	loop_timer_clear(node->loop, &p->cut_timer);
	take_back(node);
	primary_let_stop(node);
}

static void cut_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	if (node->p.pouring)
		cut_end(node);
	else
		look(node, now);
}

void cut_begin(struct node *node)
{
	struct primary *p = &node->p;
	uint64_t now = loop_clock();
	int r;

	if (p->input_diverted && !p->pouring)
		return; /* on its way already */
	p->pouring = false;
	p->input_diverted = true;
	p->cut_deadline = now + DRAIN_NS;
	if (node->intercept_source.added)
		loop_set_events(node->loop, &node->intercept_source, 0);
	r = intercept_set(node->intercept, true);
	if (r < 0)
		log_warn("the VM's input is not diverted for the cut: %s", strerror(-r));
	look(node, now);
}

/* Input for a VM whose numbers its clients do not know. What the tap does not take waits. */
static void input_ready(void *ctx, uint32_t events)
{
	struct node *node = ctx;

	(void)events;
	if (pour(node))
		return;
	loop_set_events(node->loop, &node->intercept_source, 0);
	node->p.input_diverted = node->p.pouring = true;
	node_arm(node, &node->p.cut_timer, POUR_RETRY_NS);
}

int cut_map(struct node *node)
{
	node->p.cut_timer = (struct loop_timer){.fire = cut_due, .ctx = node};
	return loop_add(node->loop, &node->intercept_source, intercept_fd(node->intercept), EPOLLIN,
	                input_ready, node);
}

void cut_unmap(struct node *node)
{
	loop_del(node->loop, &node->intercept_source);
	if (node->p.input_diverted && !node->p.pouring)
		return; /* a cut is on, and will end the diversion */
	node->p.input_diverted = true;
	cut_end(node);
}

void cut_close(struct node *node)
{
	loop_del(node->loop, &node->intercept_source);
	/* Closed while it diverts, it would leave the port shut, also to what a secondary feeds. */
	if (node->intercept && intercept_set(node->intercept, false) < 0)
		log_error("the VM's input stays diverted: the copy of the VM will hear nothing");
	intercept_close(node->intercept);
	node->intercept = NULL;
}

int cut_init(struct node *node, char *err, size_t errlen)
{
	uint32_t mark = (uint32_t)node->config->mark;
	int r = intercept_open(node->tap, NULL, mark, 0, &node->intercept, err, errlen);

	if (r == 0)
		r = intercept_set(node->intercept, false);
	if (r == 0)
		r = inject_open(node->tap, mark, 0, &node->inject, err, errlen);
	node->p.cut_timer = (struct loop_timer){.fire = cut_due, .ctx = node};
	return r;
}
