/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the SVM said last, kept on the secondary for questions of the primary's: evidence of
 * divergences (core/evidence.c), and ranges of its stream in two (core/gate_cut.c).
 *
 * Nothing here decides anything, and nobody waits for it: what memory or the link has no room for
 * is left out.
 */
#include <errno.h>

#include "colo-proxy/node/node_private.h"

/* ---- the primary ---- */

static uint64_t realtime_of(struct node *node, uint64_t steady_ns)
{
	uint64_t now = node_steady(node);

	return node_realtime() - (now > steady_ns ? now - steady_ns : 0);
}

/* What the secondary is asked for. False: there is nothing to ask. */
static bool ask_of(const struct divergence *why, struct ask *ret_ask)
{
	if (!evidence_is_divergence(why->cause) || !why->has_key)
		return false;
	if (why->said) {
		*ret_ask = (struct ask){.kind = ASK_SAID, .digest = *why->said};
		return true;
	}
	*ret_ask = (struct ask){.kind = ASK_NEWEST};
	ret_ask->digest.key = why->key;
	return true;
}

static void ask_secondary(struct node *node, struct evidence *noted, const struct divergence *why)
{
	uint8_t payload[ASK_WIRE_MAX];
	struct iovec iov = {.iov_base = payload};
	struct ask ask;

	/* After a hand-over the peer is no secondary any more, and would take an ask amiss. */
	if (node->role.state != ROLE_PROTECTED || !ask_of(why, &ask))
		return;
	ask.id = noted->id;
	iov.iov_len = ask_pack(payload, &ask);
	if (link_send(node->link, LINK_FAST, MSG_ASK, why->epoch, &iov, 1) == 0)
		noted->found = EVIDENCE_WAITING;
}

void node_note_divergence(struct node *node, const struct divergence *why)
{
	struct evidence evidence = {
	        .at_ns = node_realtime(),
	        .cause = why->cause,
	        .epoch = why->epoch,
	        .has_key = why->has_key,
	        .key = why->key,
	        .has_iss = why->iss_known,
	        .iss = why->iss,
	        .seq = why->seq,
	        .len = why->len,
	        .wanted = why->wanted,
	        .seen = why->seen,
	        .what = why->what,
	};

	if (!node->evidence)
		return;
	for (uint32_t i = 0; i < why->packets; i++) {
		const struct frame *frame = why->packet[i]->frame;
		struct evidence_packet packet = {
		        .at_ns = realtime_of(node, why->arrived[i]),
		        .original = frame->len,
		        .frame = evidence_cut(frame, why->seq, why->len),
		};

		if (packet.frame)
			evidence.pvm.packet[evidence.pvm.count++] = packet;
	}
	ask_secondary(node, evidence_add(node->evidence, &evidence), why);
}

void node_note_cause(struct node *node, enum ckpt_cause cause)
{
	struct evidence evidence = {
	        .at_ns = node_realtime(),
	        .cause = cause,
	        .epoch = gate_epoch(node->gate),
	        .what = cause == CKPT_TIMER   ? "the longest epoch is over"
	                : cause == CKPT_DIRTY ? "the VM writes to much memory"
	                                      : "asked for by the operator",
	};

	if (node->evidence)
		(void)evidence_add(node->evidence, &evidence);
}

void node_said_arrived(struct node *node, const uint8_t *payload, size_t len)
{
	struct evidence_side side;
	uint64_t now = node_realtime();
	uint32_t id;
	int r = said_unpack(&id, &side, payload, len);

	if (r == -EPROTO)
		link_drop(node->link, "a SAID message that does not fit");
	if (r < 0)
		return;
	for (uint32_t i = 0; i < side.count; i++)
		side.packet[i].at_ns = now - side.packet[i].at_ns;
	if (node->evidence)
		evidence_answer(node->evidence, id, &side);
	else
		evidence_side_clear(&side);
}

/* ---- the secondary ---- */

/* Keeps what the SVM has said instead of discarding it at once. */
void secondary_keep(struct node *node, struct frame *frame)
{
	struct recent *recent = node->s.recent;

	if (!recent) {
		hold_discard(node->hold, frame);
		return;
	}
	recent_keep(recent, frame, node->s.lineage, shadow_last_map(node->shadow),
	            loop_now(node->loop));
	while ((frame = recent_evict(recent, false)))
		hold_discard(node->hold, frame);
}

void secondary_forget(struct node *node)
{
	struct frame *frame;

	while (node->s.recent && (frame = recent_evict(node->s.recent, true)))
		hold_discard(node->hold, frame);
	recent_free(node->s.recent);
	node->s.recent = NULL;
}

void secondary_asked(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	uint8_t answer[SAID_WIRE_MAX];
	struct iovec iov = {.iov_base = answer};
	struct evidence_side side = {0};
	struct ask ask;

	if (ask_unpack(&ask, payload, len) != 0) {
		link_drop(node->link, "an ASK message that does not fit");
		return;
	}
	if (node->s.recent)
		recent_find(node->s.recent, &node->digest_key, epoch, &ask, loop_now(node->loop),
		            &side);
	iov.iov_len = said_pack(answer, ask.id, &side);
	evidence_side_clear(&side);
	/* A full link has better things to carry. */
	(void)link_send(node->link, LINK_FAST, MSG_SAID, epoch, &iov, 1);
}

void secondary_asked_to_cut(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	uint8_t answer[CUT_WIRE_MAX];
	struct iovec iov = {.iov_base = answer};
	struct digest_cut cut;

	if (cut_ask_unpack(&cut, payload, len) != 0) {
		link_drop(node->link, "a CUT_ASK message that does not fit");
		return;
	}
	if (!node->s.recent || recent_cut(node->s.recent, &node->digest_key, epoch, &cut) != 0)
		return; /* the range stays whole: a checkpoint ends the wait */
	iov.iov_len = cut_pack(answer, &cut);
	(void)link_send(node->link, LINK_FAST, MSG_CUT, epoch, &iov, 1);
}

/* ---- the operator ---- */

void node_last_divergence(const struct node *node, char *buf, size_t len)
{
	const struct evidence *last = node->evidence ? evidence_last(node->evidence) : NULL;

	if (last)
		evidence_text(last, buf, len);
}

static void do_divergences(void *arg)
{
	struct node_job *job = arg;
	struct node *node = job->node;

	if (!node->evidence) {
		job->done(job, false, "none are kept: divergences = 0, or another comparator");
		return;
	}
	if (evidence_copy(node->evidence, job->max, job->any_kind, &job->list, &job->count) < 0)
		job->done(job, false, "no memory");
	else
		job->done(job, true, "");
}

void node_divergences(struct node *node, struct node_job *job)
{
	node_post_job(node, job, do_divergences);
}
