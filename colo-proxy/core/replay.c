/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replay: theory of operation
 *
 * Goal: what the VM had said when a checkpoint was cut, and that had not left the primary when it
 * died, reaches the network all the same when the checkpoint is taken over. TCP does that by
 * itself: the state has the bytes as unacknowledged ones. Of a datagram the state has nothing.
 *
 * So the frames that are no TCP cross the link along with the checkpoint (replay_out), in front of
 * its end: a checkpoint is whole with all of them or not at all (R3). The secondary keeps them
 * (replay_in) until it hears that they have left, and says what is left when it takes over.
 *
 *   cut C(e)      what is held for its commit, and what was released and the kernel has not taken
 *   C(e) whole    the secondary has them, and says COMMITTED
 *   COMMITTED     the primary lets them out, and then says RELEASED(e)
 *   RELEASED(e)   the secondary forgets them, and those of the checkpoints before
 *
 * Between the third and the fourth a frame may have left and be said again: a network may double a
 * datagram, too. R1 holds: a frame was said before the cut of a checkpoint that is committed, and
 * the VM that goes on is in a state that has said it. Those of a checkpoint that came half are as
 * if they never were.
 *
 * RELEASED and the frames are on different channels. The primary puts into each message of frames
 * what it would say with RELEASED at that moment, so that the secondary never counts what the
 * primary does not count any more, and one limit bounds both.
 *
 * Invariants: the list in replay_in is in the order in which the VM said it, and so by checkpoint.
 * What a takeover can say is in front of what arrives.
 *
 * Limits: what is above the limit is lost with the primary as it would be without all this. What
 * has waited for an operator for minutes is not said: no network delivers that late (the maximum
 * segment lifetime, RFC 9293 section 3.4.1).
 */
#include "colo-proxy/core/replay.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

struct replay_kept {
	struct replay_kept *next;
	struct frame *frame;
	uint32_t epoch; /* of the checkpoint that it came with */
	uint64_t at;    /* when it came */
};

static void count(struct replay_count *count, const struct frame *frame)
{
	count->packets++;
	count->bytes += frame->len;
}

bool replay_wants(const struct packet *packet)
{
	return packet->class != PACKET_TCP && packet->proto != IPPROTO_TCP;
}

/* ---- the primary's half ---- */

static void forget_unsent(struct replay_out *out)
{
	while (out->first) {
		struct frame *frame = out->first;

		out->first = frame->next;
		frame_free(frame);
	}
	out->last = NULL;
}

void replay_out_begin(struct replay_out *out, uint64_t limit)
{
	forget_unsent(out);
	*out = (struct replay_out){.limit = limit, .sent = out->sent, .left_out = out->left_out};
}

void replay_out_cut(struct replay_out *out, uint32_t epoch)
{
	forget_unsent(out);
	out->of_older += out->of_newest;
	out->of_newest = 0;
	out->epoch = epoch;
	out->gathered = false;
}

static int try_to_add(struct replay_out *out, const struct frame *frame)
{
	uint64_t cost = replay_cost(frame), kept = out->of_older + out->of_newest;
	struct frame *copy;

	if (frame->start == FRAME_AT_IP && !frame->linked)
		return -EINVAL;
	if (cost > out->limit || kept > out->limit - cost)
		return -ENOSPC;
	copy = frame_copy(frame);
	if (!copy)
		return -ENOMEM;
	if (copy->linked)
		frame_show_link(copy);
	*(out->last ? &out->last->next : &out->first) = copy;
	out->last = copy;
	out->of_newest += cost;
	return 0;
}

int replay_out_add(struct replay_out *out, const struct frame *frame)
{
	int r = try_to_add(out, frame);

	count(r == 0 ? &out->sent : &out->left_out, r == 0 ? out->last : frame);
	return r;
}

void replay_out_sent(struct replay_out *out)
{
	struct frame *frame = out->first;

	out->first = frame->next;
	if (!out->first)
		out->last = NULL;
	frame_free(frame);
}

bool replay_out_released(struct replay_out *out, uint32_t epoch)
{
	bool kept = out->of_older != 0;

	if (epoch <= out->released)
		return false;
	out->released = epoch;
	out->of_older = 0;
	if (epoch == out->epoch) {
		kept |= out->of_newest != 0;
		out->of_newest = 0;
	}
	return kept;
}

/* ---- the secondary's half ---- */

static struct frame *drop_first(struct replay_in *in)
{
	struct replay_kept *kept = in->first;
	struct frame *frame = kept->frame;

	in->first = kept->next;
	if (in->whole_last == kept)
		in->whole_last = NULL;
	if (in->last == kept)
		in->last = NULL;
	in->bytes -= replay_cost(frame);
	free(kept);
	return frame;
}

/* What arrives is the end of the list. */
static void drop_arriving(struct replay_in *in)
{
	struct replay_kept **end = in->whole_last ? &in->whole_last->next : &in->first;

	while (*end) {
		struct replay_kept *kept = *end;

		*end = kept->next;
		in->bytes -= replay_cost(kept->frame);
		frame_free(kept->frame);
		free(kept);
	}
	in->last = in->whole_last;
}

void replay_in_begin(struct replay_in *in, uint64_t limit)
{
	while (in->first)
		frame_free(drop_first(in));
	in->limit = limit;
	in->epoch = in->committed = 0;
}

void replay_in_ckpt(struct replay_in *in, uint32_t epoch)
{
	drop_arriving(in);
	in->epoch = epoch;
}

static int keep(struct replay_in *in, struct frame *frame, uint64_t now)
{
	uint64_t cost = replay_cost(frame);
	struct replay_kept *kept;

	if (cost > in->limit || in->bytes > in->limit - cost)
		return -ENOSPC;
	kept = malloc(sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	*kept = (struct replay_kept){.frame = frame, .epoch = in->epoch, .at = now};
	*(in->last ? &in->last->next : &in->first) = kept;
	in->last = kept;
	in->bytes += cost;
	if (in->high < in->bytes)
		in->high = in->bytes;
	return 0;
}

int replay_in_add(struct replay_in *in, struct frame *frame, uint64_t now)
{
	int r = keep(in, frame, now);

	count(r == 0 ? &in->kept : &in->not_kept, frame);
	if (r < 0)
		frame_free(frame);
	return r;
}

void replay_in_commit(struct replay_in *in)
{
	in->committed = in->epoch;
	in->whole_last = in->last;
}

int replay_in_released(struct replay_in *in, uint32_t epoch)
{
	if (epoch > in->committed)
		return -EPROTO;
	while (in->first && in->first->epoch <= epoch)
		frame_free(drop_first(in));
	return 0;
}

struct frame *replay_in_take(struct replay_in *in, uint64_t now)
{
	while (in->whole_last) {
		bool old = now - in->first->at > REPLAY_MAX_AGE_NS;
		struct frame *frame = drop_first(in);

		count(old ? &in->too_old : &in->replayed, frame);
		if (!old)
			return frame;
		frame_free(frame);
	}
	return NULL;
}
