/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When a primary may start its VM (R6). */
#include "colo-proxy/node_private.h"

static struct primary *of(struct node *node)
{
	return &node->p;
}

/*
 * A primary that comes back after its secondary took over must not boot the VM a second time (R6):
 * it boots when the peer has said that it does not speak, or, since a first start must be possible
 * without a peer, when none was found in time.
 */
static void boot(struct node *node)
{
	struct primary *p = of(node);

	loop_timer_clear(node->loop, &p->boot_timer);
	if (p->vm_ordered || node->role.state == ROLE_RETIRED)
		return;
	p->vm_ordered = true;
	node->ops->order(node->ctx, ORDER_START_PRIMARY, "");
}

void primary_boot_due(void *ctx, uint64_t now)
{
	(void)now;
	boot(ctx);
}

void primary_vm_ready(struct node *node, bool ok, const char *text)
{
	struct primary *p = of(node);

	if (!ok) {
		node_message(node, text);
		node_role(node, ROLE_EV_VM_LOST);
		return;
	}
	p->vm_up = true;
	node_event(node, "the VM runs");
	if (p->copy_due && node->role.state == ROLE_JOINING)
		primary_copy_due(node, loop_now(node->loop));
}

void primary_link_up(struct node *node)
{
	of(node)->started_here = false;
	of(node)->copy_due = false;
}

/*
 * What the peer's state says about who speaks. A lineage does not outlive its session: a secondary
 * that is heard without a copy, in a session in which this side has not told it to begin, has none.
 */
void primary_heard(struct node *node, const struct heartbeat *heartbeat)
{
	struct primary *p = of(node);

	if (heartbeat->state == ROLE_ALONE || heartbeat->state == ROLE_TAKING_OVER) {
		if (!p->silent)
			node_role(node, ROLE_EV_PEER_SPEAKS);
		return;
	}
	boot(node);
	if (!p->started_here &&
	    (heartbeat->state == ROLE_WAITING || heartbeat->state == ROLE_JOINING) &&
	    (node->role.state == ROLE_PROTECTED || node->role.state == ROLE_DECIDING ||
	     node->role.state == ROLE_STUCK))
		node_role(node, ROLE_EV_PEER_YIELDED);
}

/* The peer speaks, or the VM is gone: what is here says nothing any more. */
void primary_silence(struct node *node)
{
	if (!node->is_primary)
		return;
	of(node)->silent = true;
	loop_timer_clear(node->loop, &of(node)->boot_timer);
	hold_set_mode(node->hold, HOLD_MODE_DROP);
	node_event(node, "this side is silent for good: the VM is not here");
	if (of(node)->vm_up)
		node->ops->order(node->ctx, ORDER_KILL_VM, "the VM is the peer's");
}
