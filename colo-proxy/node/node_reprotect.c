/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sides change: theory of operation
 *
 * Who has taken over is a primary from then on, in the same process and with the same tap and hold:
 * what its VM says goes through a gate, which lets everything out at once until there is a
 * secondary. What can fail of this was made ready when the copy was (primary_new_core()), but for
 * the copies of input and the socket that QEMU migrates to: without them the VM speaks all the
 * same, and is not protected.
 *
 * Who finds that the peer speaks (core/role.c) has no VM, or one that is to end: its tap leaves the
 * bridge first, what it holds is thrown away, and then everything that a primary has is closed and
 * what a secondary has is opened. The session goes on: the peer begins to protect when it hears
 * that this side is JOINING.
 *
 * The link does not change: the host that is configured as the primary connects, whoever speaks.
 * After a change of sides the hold is the tap also with datapath = nfqueue: a survivor's frames
 * were held there before it spoke, and moving them would need a moment in which none come.
 *
 * Limit: when both hosts have lost the VM, it is for the primary by configuration to boot it, and
 * that only asks at its start: its daemon must be started again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/node/node_private.h"

/* The VM here speaks: this side is a primary, unprotected. */
void reprotect_lead(struct node *node)
{
	struct primary *p = &node->p;
	struct secondary *s = &node->s;
	char err[200];

	secondary_stop_timers(node);
	decode_stop(node);
	codec_fini(node);
	link_pause(node->link, LINK_BULK, false);
	primary_init_timers(node);
	p->ckpt = s->ckpt;
	s->ckpt = (struct ckpt){0};
	p->vm_ordered = p->vm_up = p->changed_here = true;
	s->vm_up = s->taking_over = s->feeding = false;
	map_clear(node);
	node->is_primary = true;
	node->peer_lineage = 0;
	if (!s->yielded)
		primary_unmark(node);
	map_begin(node);
	if (primary_open_input(node, err, sizeof(err)) < 0 ||
	    primary_open_listen(node, err, sizeof(err)) < 0)
		log_error("the VM cannot be protected from here: %s", err);
}

static void close_hold(struct node *node)
{
	for (int i = 0; i < node->hold_sources; i++)
		loop_del(node->loop, &node->hold_source[i]);
	node->hold_sources = 0;
	frame_queue_clear(&node->unreleased);
	loop_timer_clear(node->loop, &node->release_timer);
	hold_close(node->hold);
	node->hold = NULL;
}

static void close_input(struct node *node)
{
	if (node->mirror_source.added)
		loop_del(node->loop, &node->mirror_source);
	mirror_close(node->mirror);
	node->mirror = NULL;
	cut_close(node);
	inject_close(node->inject);
	node->inject = NULL;
}

static void close_primary(struct node *node)
{
	struct primary *p = &node->p;

	primary_end_job(&p->asked_job, false, "the VM is the peer's");
	primary_end_job(&p->taken_job, false, "the VM is the peer's");
	primary_end_job(&p->handover_job, false, "the VM is the peer's");
	close_hold(node);
	primary_fini(node);
	codec_fini(node);
	close_input(node);
	primary_stop_timers(node);
	loop_timer_clear(node->loop, &node->s.announce_timer);
	loop_timer_clear(node->loop, &node->s.expire_timer);
	shadow_free(node->shadow);
	node->shadow = NULL;
	*p = (struct primary){0};
}

/* The peer speaks: this side has no VM (ROLE_ACT_SILENCE) and becomes its secondary. */
void reprotect_follow(struct node *node)
{
	struct tcg_flush *flush = node->s.flush;
	char err[200] = "";
	int r = netif_release(node->tap);

	if (r < 0)
		snprintf(err, sizeof(err), "taking %s off the bridge: %s", node->tap, strerror(-r));
	close_primary(node);
	secondary_fini(node);
	node->s = (struct secondary){.flush = flush};
	node->is_primary = false;
	node->committed_epoch = node->peer_lineage = 0;
	if (r == 0)
		r = node_mark(node);
	if (r < 0 && !err[0])
		snprintf(err, sizeof(err), "state-dir %s: %s", node->config->state_dir,
		         strerror(-r));
	if (r == 0)
		r = node_open_hold(node, err, sizeof(err));
	if (r == 0)
		r = secondary_init(node, err, sizeof(err));
	if (r < 0) {
		char words[280];

		snprintf(words, sizeof(words),
		         "this side cannot be a secondary: %s; start its daemon again", err);
		log_error("%s", words);
		node_message(node, words);
		link_close(node->link, "this side cannot be a secondary");
		return;
	}
	node_event(node, "the peer speaks for the VM; this side is its secondary now");
	node_beat_now(node);
}
