/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary's VM stands still: theory of operation
 *
 * The primary says with each checkpoint whether the epoch that it begins is compared. When it is
 * not, nobody needs an SVM that runs: the checkpoint is kept, merged page by page into those that
 * were kept before (kvm/image.h), and the SVM is stopped with the first of them. Its QEMU then
 * waits for a checkpoint that it was promised and takes no processor time; QMP answers.
 *
 *   a checkpoint is whole         committed; still_take(): merged in slices, the SVM is stopped
 *   merged, and the SVM stands    lineage e begins, without anybody who lives it: input is logged
 *                                 from its cut on. LOADED tells the primary that the next may come
 *   one that is to run comes, or  what was merged is loaded as one checkpoint, and the SVM runs,
 *   the primary is lost           fed from the newest cut on, as after any other load
 *
 * R4: once anything is kept, the SVM does not run again, and so says nothing, before it has loaded
 * all of it: the newest checkpoint that is whole included. A takeover waits for that.
 */
#include "colo-proxy/node/node_private.h"
#include "qemu-glue/tcg_flush.h"

#define SLICE_RECORDS 256u /* of memory, 1 MiB: some 0.2 ms */

static struct secondary *of(struct node *node)
{
	return &node->s;
}

static void deliver(struct node *node)
{
	struct secondary *s = of(node);

	s->delivering = true;
	s->load_started = loop_clock();
	if (s->taking_over)
		node->takeover.loaded_bytes = image_bytes(s->image);
	secondary_empty_tap(node);
	if (s->flush)
		tcg_flush_bump(s->flush);
	secondary_load_into_svm(node, image_finish(s->image));
}

/* All of the checkpoint is merged, and the SVM stands still. */
static void lineage_begins(struct node *node)
{
	struct secondary *s = of(node);
	uint8_t payload[8];

	s->ckpt_whole = s->loading = false;
	if (s->lineage != s->ckpt.epoch)
		secondary_begin_lineage(node);
	ckpt_buf_reset(&s->ckpt.buf);
	secondary_cut_log(node);
	if (s->image_high < image_bytes(s->image))
		s->image_high = image_bytes(s->image);
	if (!s->keep || s->taking_over) {
		deliver(node);
		return;
	}
	u64_pack(payload, 0);
	node_send(node, LINK_FAST, MSG_LOADED, s->lineage, payload, sizeof(payload));
	link_flush(node->link);
}

void still_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	struct secondary *s = of(node);
	int r = 1;

	if (!s->relay || !s->kept || !s->ckpt_whole)
		return;
	if (s->merging)
		r = image_merge(s->image, &s->ckpt, SLICE_RECORDS);
	if (r < 0) {
		secondary_svm_failed(node, "a checkpoint cannot be merged with those before it");
		return;
	}
	s->merging = r == 0;
	if (s->merging)
		loop_timer_set(node->loop, &s->still_timer, now);
	else if (relay_secondary_phase(s->relay) == RELAY_SECONDARY_STOPPED)
		lineage_begins(node);
}

void still_take(struct node *node)
{
	struct secondary *s = of(node);

	if (!s->kept)
		image_begin(s->image, relay_secondary_stream(s->relay));
	s->kept = s->merging = true;
	if (relay_secondary_phase(s->relay) == RELAY_SECONDARY_RUNNING)
		secondary_load(node); /* stops it */
	still_due(node, loop_clock());
}

void still_stopped(struct node *node)
{
	/* Not from within the relay's callback. */
	loop_timer_set(node->loop, &of(node)->still_timer, loop_clock());
}

void still_take_over(struct node *node)
{
	struct secondary *s = of(node);

	/* Else what is under way ends with it. */
	if (!s->ckpt_whole && !s->delivering)
		deliver(node);
}

void still_loaded(struct node *node)
{
	struct secondary *s = of(node);

	s->kept = s->delivering = false;
	image_reset(s->image);
}

void still_clear(struct node *node)
{
	struct secondary *s = of(node);

	loop_timer_clear(node->loop, &s->still_timer);
	s->kept = s->keep = s->merging = s->delivering = false;
	image_reset(s->image);
}

struct stats_queue still_memory(const struct node *node)
{
	const struct secondary *s = &node->s;

	if (!s->image)
		return (struct stats_queue){0};
	return (struct stats_queue){image_bytes(s->image), s->image_high, image_limit(s->image)};
}
