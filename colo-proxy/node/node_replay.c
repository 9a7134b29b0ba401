/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Output that is said again at a takeover: core/replay.c says what and why. Here is when.
 *
 * The primary gathers when it is about to end a checkpoint, not at the cut: what the SVM has been
 * seen to say meanwhile has left by match, and need not cross. Gathered are the frames that the
 * commit would let out, and those that were let out and the kernel has not taken: all that the VM
 * had said when it stood still and that is still here. They go over the bulk channel in front of
 * CKPT_END, which waits when there is no room.
 *
 * RELEASED is said when nothing that was let out waits any more. It is in front of HANDOVER: after
 * a planned switch-over nothing is said twice, and what the kernel did not take in time is said by
 * the one that goes on.
 *
 * The secondary says them behind the announcement, so that the network looks for the VM here, and
 * in front of the VM's own first words, so that no flow is out of order.
 */
#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

/* ---- the primary ---- */

void primary_begin_replay(struct node *node)
{
	replay_out_begin(&node->replay_out, node->replay_bytes);
	for (struct frame *frame = node->unreleased.head; frame; frame = frame->next)
		frame->gathered = false; /* not by this secondary */
}

static void gather(void *ctx, const struct packet *packet)
{
	struct node *node = ctx;

	if (!replay_wants(packet) || packet->frame->gathered)
		return;
	packet->frame->gathered = true;
	(void)replay_out_add(&node->replay_out, packet->frame); /* what is left out is counted */
}

static void gather_all(struct node *node)
{
	struct packet packet;

	for (struct frame *frame = node->unreleased.head; frame; frame = frame->next) {
		if (packet_parse(&packet, frame) == 0)
			gather(node, &packet);
	}
	gate_each_before(node->gate, (uint32_t)node->p.ckpt.epoch, gather, node);
	node->replay_out.gathered = true;
}

/* As many frames as go into one message. Returns the message's length. */
static size_t pack(const struct replay_out *out, uint8_t payload[REPLAY_WIRE_MAX],
                   uint32_t *ret_frames)
{
	size_t len = REPLAY_HEAD_LEN;

	*ret_frames = 0;
	replay_pack_head(payload, out->released);
	for (const struct frame *frame = out->first; frame; frame = frame->next) {
		if (len + REPLAY_FRAME_LEN + frame->len > REPLAY_WIRE_MAX)
			break;
		len += replay_pack_frame(payload + len, frame);
		(*ret_frames)++;
	}
	return len;
}

bool primary_send_replay(struct node *node)
{
	static uint8_t payload[REPLAY_WIRE_MAX];
	struct replay_out *out = &node->replay_out;

	if (!out->limit)
		return true;
	if (!out->gathered)
		gather_all(node);
	while (out->first) {
		uint32_t frames;
		struct iovec iov = {.iov_base = payload, .iov_len = pack(out, payload, &frames)};

		if (link_send(node->link, LINK_BULK, MSG_REPLAY, out->epoch, &iov, 1) != 0)
			return false;
		while (frames--)
			replay_out_sent(out);
	}
	return true;
}

void primary_say_released(struct node *node)
{
	const struct primary *p = &node->p;

	if (node->role.state != ROLE_PROTECTED || p->silent || node->unreleased.head ||
	    !p->started_here || !link_is_up(node->link) || hold_flush(node->hold) < 0 ||
	    !replay_out_released(&node->replay_out, node->committed_epoch))
		return;
	/* If there is no room for it, the next frames say it. */
	node_send(node, LINK_FAST, MSG_RELEASED, node->committed_epoch, NULL, 0);
	link_flush(node->link);
}

/* ---- the secondary ---- */

static void released(struct node *node, uint32_t epoch)
{
	if (replay_in_released(&node->replay_in, epoch) < 0)
		link_drop(node->link, "replay: a checkpoint that is not committed was released");
}

void secondary_released(struct node *node, uint32_t epoch, size_t len)
{
	if (len)
		link_drop(node->link, "replay: a RELEASED of the wrong length");
	else
		released(node, epoch);
}

void secondary_replay_arrived(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	uint32_t up_to;
	size_t at = REPLAY_HEAD_LEN;

	if (!node->s.ckpt_open || epoch != node->s.ckpt.epoch ||
	    replay_unpack_head(&up_to, payload, len) < 0) {
		link_drop(node->link, "replay: frames of a checkpoint that did not begin");
		return;
	}
	released(node, up_to);
	while (at < len) {
		struct frame *frame;
		int r = replay_unpack_frame(&frame, payload + at, len - at);

		if (r < 0) {
			link_drop(node->link, "replay: a malformed frame, or no memory for it");
			return;
		}
		at += (size_t)r;
		(void)replay_in_add(&node->replay_in, frame, node_steady(node));
	}
}

void secondary_replay(struct node *node)
{
	struct replay_in *in = &node->replay_in;
	uint64_t packets = in->replayed.packets, too_old = in->too_old.packets;
	uint64_t now = node_steady(node);
	struct frame *frame;

	while ((frame = replay_in_take(in, now)))
		node_release(node, frame, true);
	packets = in->replayed.packets - packets;
	too_old = in->too_old.packets - too_old;
	if (packets || too_old)
		log_info("said again of checkpoint %u: %lu frames that the primary held; %lu were "
		         "too old",
		         node->committed_epoch, (unsigned long)packets, (unsigned long)too_old);
	node->takeover.replayed = packets;
	replay_in_begin(in, node->config->replay_bytes);
}
