/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A checkpoint on the primary: when it is asked for, and the cut. node_encode.c sends it. */
#include <string.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

#define URGENT_NS         (30 * MS)  /* the longest that the pause's threads run before others */
#define RESUME_NS         (1 * MS)   /* for QEMU to let the VM run on */
#define TRIGGER_REPEAT_NS (250 * MS) /* a request that QEMU has not answered is made again */

static struct primary *of(struct node *node)
{
	return &node->p;
}

/* ---- asking for a checkpoint ---- */

void primary_trigger(struct node *node)
{
	struct primary *p = of(node);

	if (!p->triggered)
		p->asked_at = loop_clock();
	p->triggered = true;
	node->ops->order(node->ctx, ORDER_CHECKPOINT, ckpt_cause_name(p->cause));
	node_arm(node, &p->trigger_timer, TRIGGER_REPEAT_NS);
}

void primary_want(struct node *node, enum ckpt_cause cause)
{
	struct primary *p = of(node);
	uint64_t at = pacer_earliest(&node->pacer);

	if (p->wanted || node->role.state != ROLE_PROTECTED)
		return;
	p->wanted = true;
	p->cause = cause;
	if (cause == CKPT_TIMER || cause == CKPT_COMMAND || cause == CKPT_DIRTY)
		node_note_cause(node, cause);
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

/* The policy wants a checkpoint. */
void primary_epoch_over(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	enum ckpt_cause cause;
	uint64_t due = pacer_due(&node->pacer, &cause);

	if (due <= now)
		primary_want(node, cause);
	else
		primary_pace(node); /* it was sooner when the timer was set */
}

/* Something has happened that the policy may want a checkpoint for, sooner or later. */
void primary_pace(struct node *node)
{
	struct primary *p = of(node);
	enum ckpt_cause cause;
	uint64_t due = pacer_due(&node->pacer, &cause);

	if (due == UINT64_MAX || p->wanted)
		loop_timer_clear(node->loop, &p->epoch_timer);
	else
		loop_timer_set(node->loop, &p->epoch_timer, due);
	dirty_pace(node);
}

/* ---- the checkpoint ---- */

void primary_answer_request(struct node *node)
{
	struct primary *p = of(node);

	if (!p->relay || p->in_flight || relay_primary_phase(p->relay) != RELAY_PRIMARY_REQUESTED)
		return;
	cut_begin(node);
}

/*
 * On a full host, most of a pause is waiting for a processor: QEMU's migration thread, its main
 * loop, the vCPUs that are to stop and this thread need one each, one after the other. They go
 * first while the VM stands still, and for URGENT_NS at most.
 */
static void hurry(struct node *node)
{
	struct primary *p = of(node);
	int r;

	if (node->config->scheduling != CONFIG_SCHEDULING_BATCH)
		return;
	primary_calm(node); /* QEMU may not have told that the last pause is over */
	r = urgent_begin(&p->urgent);
	if (r < 0)
		log_info("checkpoints wait for processors as others do: no real-time class: %s",
		         strerror(-r));
	node_arm(node, &p->urgent_timer, URGENT_NS);
}

void primary_calm(struct node *node)
{
	loop_timer_clear(node->loop, &of(node)->urgent_timer);
	urgent_end(&of(node)->urgent);
}

void primary_calm_due(void *ctx, uint64_t now)
{
	(void)now;
	urgent_end(&of(ctx)->urgent);
}

/* QEMU says that the VM runs on, after it stood still from then. */
void primary_vm_resumed(struct node *node, uint64_t stopped_at)
{
	if (stopped_at >= of(node)->replied_at)
		primary_calm(node);
}

/* The PVM has taken its input: it may stop. */
void primary_let_stop(struct node *node)
{
	struct primary *p = of(node);

	if (!p->relay || relay_primary_reply(p->relay, &p->ckpt, gate_epoch(node->gate) + 1) < 0) {
		cut_end(node);
		return;
	}
	hurry(node);
	p->replied_at = loop_clock();
	p->reading_ns = 0;
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
	cut_taken(node, (uint32_t)ckpt->epoch);
	map_cut(node);
	if (p->triggered)
		pacer_asked(&node->pacer, now - p->asked_at);
	p->ran = p->runs;
	p->runs = pacer_cut(&node->pacer, p->cause, now);
	dirty_rate_cut(&node->dirty, now);
	gate_set_comparing(node->gate, p->runs);
	gate_cut(node->gate, (uint32_t)ckpt->epoch, node_steady(node));
	replay_out_cut(&node->replay_out, (uint32_t)ckpt->epoch);
	loop_timer_clear(node->loop, &p->trigger_timer);
	p->taken_cause = p->cause;
	p->wanted = p->triggered = false;
	p->taken_job = p->asked_job;
	p->asked_job = NULL;
	p->in_flight = true;
	p->committed = p->begun = p->ended = false;
	p->cut_at = now;
	if (p->handing_over)
		p->silent = true;
}

void primary_vm_captured(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct node *node = ctx;
	struct primary *p = of(node);

	urgent_spare_vcpus(&p->urgent);
	node_arm(node, &p->urgent_timer, RESUME_NS);
	if (!p->silent)
		relay_primary_resume(p->relay, now);
	/* A VM that hands over takes nothing any more; the mirror gives it to the secondary. */
	cut_end(node);
	p->last_pause_ns = loop_clock() - ckpt->stopped_at;
	node->by_cause[p->taken_cause]++;
	node->pages_last = ckpt->stats.pages + ckpt->stats.zero_pages;
	node->pages_total += node->pages_last;
	figures_captured(node);
	pacer_captured(&node->pacer, p->last_pause_ns, node->pages_last);
	dirty_rate_captured(&node->dirty, node->pages_last);
	p->sending = true;
	primary_pace(node);
}
