/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The small queues that the data thread keeps frames in. */
#include <errno.h>
#include <stdlib.h>

#include "colo-proxy/node/node_private.h"

void frame_queue_push(struct frame_queue *queue, struct frame *frame)
{
	frame->next = NULL;
	*(queue->tail ? &queue->tail->next : &queue->head) = frame;
	queue->tail = frame;
	queue->bytes += frame->len;
}

struct frame *frame_queue_pop(struct frame_queue *queue)
{
	struct frame *frame = queue->head;

	if (!frame)
		return NULL;
	queue->head = frame->next;
	if (!queue->head)
		queue->tail = NULL;
	queue->bytes -= frame->len;
	frame->next = NULL;
	return frame;
}

void frame_queue_unpop(struct frame_queue *queue, struct frame *frame)
{
	frame->next = queue->head;
	queue->head = frame;
	if (!queue->tail)
		queue->tail = frame;
	queue->bytes += frame->len;
}

void frame_queue_clear(struct frame_queue *queue)
{
	struct frame *frame;

	while ((frame = frame_queue_pop(queue)))
		frame_free(frame);
}

/* Appends; the frame is the log's. -ENOBUFS (frame freed, counted) beyond `limit` bytes. */
int input_log_push(struct input_log *log, uint64_t index, struct frame *frame, uint64_t limit)
{
	struct input *input = NULL;

	if (log->bytes + frame->len <= limit)
		input = malloc(sizeof(*input));
	if (!input) {
		log->dropped++;
		frame_free(frame);
		return -ENOBUFS;
	}
	*input = (struct input){.index = index, .frame = frame};
	*(log->tail ? &log->tail->next : &log->head) = input;
	log->tail = input;
	log->bytes += frame->len;
	if (log->bytes > log->high)
		log->high = log->bytes;
	return 0;
}

void input_log_pop(struct input_log *log)
{
	struct input *input = log->head;

	log->head = input->next;
	if (!log->head)
		log->tail = NULL;
	log->bytes -= input->frame->len;
	frame_free(input->frame);
	free(input);
}

void input_log_clear(struct input_log *log)
{
	while (log->head)
		input_log_pop(log);
}
