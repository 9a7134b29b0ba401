/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A checkpoint on the primary: when it is asked for, the cut, and its way onto the link. */
#include <xxhash.h>

#include "colo-proxy/node_private.h"

#define CHUNK             (256u << 10)
#define TRIGGER_REPEAT_NS (250 * MS) /* a request that QEMU has not answered is made again */
#define PAUSE_SHARE       5u         /* at least this many times the last pause between cuts */

static struct primary *of(struct node *node)
{
	return &node->p;
}

/* ---- asking for a checkpoint ---- */

void primary_trigger(struct node *node)
{
	struct primary *p = of(node);

	p->triggered = true;
	node->ops->order(node->ctx, ORDER_CHECKPOINT, ckpt_cause_name(p->cause));
	node_arm(node, &p->trigger_timer, TRIGGER_REPEAT_NS);
}

/* The earliest moment of the next cut: paused time stays a small share of the time (DESIGN 5). */
uint64_t primary_earliest_trigger(const struct node *node)
{
	const struct primary *p = &node->p;
	uint64_t rest = p->last_pause_ns * PAUSE_SHARE;

	if (rest < node->config->min_interval_ns)
		rest = node->config->min_interval_ns;
	return p->cut_at + rest;
}

void primary_want(struct node *node, enum ckpt_cause cause)
{
	struct primary *p = of(node);
	uint64_t at = primary_earliest_trigger(node);

	if (p->wanted || node->role.state != ROLE_PROTECTED)
		return;
	p->wanted = true;
	p->cause = cause;
	/* One is in flight: QEMU is asked when that is loaded. */
	if (p->in_flight)
		return;
	if (at <= loop_clock())
		primary_trigger(node);
	else
		loop_timer_set(node->loop, &p->trigger_timer, at);
}

void primary_trigger_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (of(node)->wanted && !of(node)->in_flight && node->role.state == ROLE_PROTECTED)
		primary_trigger(node);
}

/* An operator's request. One at a time: they are people. */
void primary_checkpoint(struct node *node, struct node_job *job)
{
	struct primary *p = of(node);

	if (p->asked_job) {
		job->done(job, false, "a checkpoint has been asked for already");
		return;
	}
	p->asked_job = job;
	primary_want(node, CKPT_COMMAND);
}

void primary_end_job(struct node_job **job, bool ok, const char *text)
{
	if (*job)
		(*job)->done(*job, ok, text);
	*job = NULL;
}

void primary_epoch_over(void *ctx, uint64_t now)
{
	(void)now;
	primary_want(ctx, CKPT_TIMER);
}

/* ---- the checkpoint ---- */

void primary_answer_request(struct node *node)
{
	struct primary *p = of(node);

	if (!p->relay || p->in_flight || relay_primary_phase(p->relay) != RELAY_PRIMARY_REQUESTED)
		return;
	cut_begin(node);
}

/* The PVM has taken its input: it may stop. */
void primary_let_stop(struct node *node)
{
	struct primary *p = of(node);

	if (!p->relay || relay_primary_reply(p->relay, &p->ckpt, gate_epoch(node->gate) + 1) < 0) {
		cut_end(node);
		return;
	}
	primary_write_pvm(node);
}

void primary_vm_requested(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (!of(node)->wanted) {
		/* QEMU asks by itself: the answer to a request that was made twice. */
		of(node)->wanted = true;
		of(node)->cause = CKPT_TIMER;
	}
	primary_answer_request(node);
}

void primary_vm_stopped(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct node *node = ctx;
	struct primary *p = of(node);

	node_drain_hold(node);
	primary_input_cut(node);
	gate_cut(node->gate, (uint32_t)ckpt->epoch, now);
	loop_timer_clear(node->loop, &p->trigger_timer);
	p->taken_cause = p->cause;
	p->wanted = p->triggered = false;
	p->taken_job = p->asked_job;
	p->asked_job = NULL;
	p->in_flight = true;
	p->committed = p->begun = p->ended = false;
	p->sent = 0;
	p->cut_at = now;
	if (p->handing_over)
		p->silent = true;
}

void primary_vm_captured(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct node *node = ctx;
	struct primary *p = of(node);

	if (!p->handing_over)
		relay_primary_resume(p->relay, now);
	/* A VM that hands over takes nothing any more; the mirror gives it to the secondary. */
	cut_end(node);
	p->last_pause_ns = loop_clock() - ckpt->stopped_at;
	node->by_cause[p->taken_cause]++;
	node->pages_last = ckpt->stats.pages + ckpt->stats.zero_pages;
	node->pages_total += node->pages_last;
	node->bytes_last = ckpt->buf.len;
	node->bytes_total += ckpt->buf.len;
	p->sending = true;
	node_arm(node, &p->epoch_timer, node->config->longest_epoch_ns);
}

static bool send_begin(struct node *node)
{
	struct primary *p = of(node);
	uint8_t payload[16];

	u64_pack(payload, p->ckpt.buf.len);
	u64_pack(payload + 8, p->input_cut);
	return node_send(node, LINK_BULK, MSG_CKPT_BEGIN, (uint32_t)p->ckpt.epoch, payload,
	                 sizeof(payload)) == 0;
}

static bool send_chunk(struct node *node)
{
	struct primary *p = of(node);
	uint64_t left = p->ckpt.buf.len - p->sent;
	size_t len = left < CHUNK ? left : CHUNK;
	uint8_t offset[8];
	struct iovec iov[2] = {
	        {.iov_base = offset, .iov_len = sizeof(offset)},
	        {.iov_base = p->ckpt.buf.base + p->sent, .iov_len = len},
	};

	u64_pack(offset, p->sent);
	if (link_send(node->link, LINK_BULK, MSG_CKPT_DATA, (uint32_t)p->ckpt.epoch, iov, 2) != 0)
		return false;
	XXH3_128bits_update(p->hash, p->ckpt.buf.base + p->sent, len);
	p->sent += len;
	return true;
}

static bool send_end(struct node *node)
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(of(node)->hash));
	return node_send(node, LINK_BULK, MSG_CKPT_END, (uint32_t)of(node)->ckpt.epoch,
	                 canonical.digest, sizeof(canonical.digest)) == 0;
}

/* Sends as much of the checkpoint as the link takes; link_ops.room calls again. */
void primary_pump_checkpoint(struct node *node)
{
	struct primary *p = of(node);

	if (!p->sending)
		return;
	if (!p->begun) {
		if (!send_begin(node))
			return;
		p->begun = true;
		XXH3_128bits_reset(p->hash);
	}
	while (p->sent < p->ckpt.buf.len) {
		if (!send_chunk(node))
			return;
	}
	if (!p->ended && send_end(node)) {
		p->ended = true;
		p->sending = false;
	}
	link_flush(node->link);
}
