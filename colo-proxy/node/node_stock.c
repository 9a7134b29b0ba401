/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The node without a data path: theory of operation
 *
 * comparator = none: one VM on a tap in the bridge, no link, nothing held. What every protected VM
 * is measured against.
 *
 * comparator = qemu: QEMU's own filters copy, hold, compare and map, and the two QEMUs migrate to
 * each other directly. The daemons do what is left: they agree that they have the same VM (PROTECT,
 * READY), follow QEMU into COLO (START), watch each other (heartbeats), decide who may speak (role,
 * fence) and carry it out:
 *   the primary is lost      x-colo-lost-heartbeat, then the tap becomes a port of the bridge, then
 *                            the address is announced
 *   the secondary is lost    filters off, x-colo-lost-heartbeat
 *
 * Limits. R1 holds as far as colo-compare holds it: what it does not compare (ARP, IPv6, VLAN)
 * passes at once. There are no epochs here, no input log, and no planned switch-over: QEMU has no
 * way to hand over at a checkpoint. Until its takeover the SVM's tap is on no bridge.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/node/node_private.h"

#define NEAR_TIMER_NS (STOCK_CHECKPOINT_DELAY_MS * MS - 100 * MS)

static void give_up(struct node *node, const char *why)
{
	log_error("the copy of the VM: %s", why);
	node_send(node, LINK_FAST, MSG_REFUSED, 0, why, strlen(why));
	link_flush(node->link);
	node_role(node, ROLE_EV_COPY_FAILED);
}

/* ---- protection begins ---- */

static void protect_asked(struct node *node, const uint8_t *payload, size_t len)
{
	if (node->role.state != ROLE_JOINING || node->s.vm_up) {
		link_drop(node->link, "protection was asked for twice");
		return;
	}
	if (secondary_has_same_vm(node, payload, len))
		node->ops->order(node->ctx, ORDER_START_SECONDARY, "");
}

void stock_vm_ready(struct node *node, bool ok, const char *text)
{
	if (node->role.state != ROLE_JOINING)
		return;
	if (!ok) {
		give_up(node, text);
		return;
	}
	node->s.vm_up = true;
	secondary_say_ready(node, 0);
}

/* P: both QEMUs are in COLO and run. */
void stock_in_colo(struct node *node)
{
	uint8_t payload[8] = {0};

	if (node->role.state != ROLE_JOINING)
		return;
	node->p.started_here = true;
	node->p.protected_at = node->p.cut_at = loop_clock();
	node->by_cause[CKPT_INITIAL]++;
	node_send(node, LINK_FAST, MSG_START, 0, payload, sizeof(payload));
	link_flush(node->link);
	node_role(node, ROLE_EV_LINEAGE_0);
}

/* P: QEMU's channel to the other QEMU is gone, while the daemons still see each other. */
void stock_channel_lost(struct node *node, const char *text)
{
	if (node->role.state == ROLE_PROTECTED && link_is_up(node->link)) {
		log_error("QEMU has left COLO: %s", text);
		link_drop(node->link, "the primary's QEMU lost its migration channel");
	}
}

/*
 * QEMU does not say why it took a checkpoint. Its timer starts anew with each: what comes when it
 * is due was the timer's, all others were colo-compare's, unless an operator asked.
 */
void stock_checkpoint_seen(struct node *node, uint64_t stopped_at, uint64_t pause_ns)
{
	struct primary *p = &node->p;
	enum ckpt_cause cause =
	        stopped_at >= p->cut_at + NEAR_TIMER_NS ? CKPT_TIMER : CKPT_MISMATCH;

	if (p->wanted)
		cause = CKPT_COMMAND;
	p->wanted = false;
	p->cut_at = stopped_at;
	node->by_cause[cause]++;
	figures_stock(node, cause, stopped_at, pause_ns);
}

/* ---- protection ends ---- */

static void protection_over(struct node *node)
{
	struct primary *p = &node->p;

	if (p->protected_at)
		p->protected_ns += loop_clock() - p->protected_at;
	p->protected_at = 0;
	p->wanted = false;
}

static void drop_copy(struct node *node)
{
	if (node->s.vm_up)
		node->ops->order(node->ctx, ORDER_KILL_VM, "the copy is worthless");
	node->s.vm_up = false;
}

static void silence(struct node *node)
{
	int r = netif_release(node->tap);

	if (r < 0)
		log_error("taking %s off the bridge: %s", node->tap, strerror(-r));
	node->p.silent = true;
	loop_timer_clear(node->loop, &node->p.boot_timer);
	node_event(node, "this side is silent for good: the VM is not here");
	if (node->p.vm_up)
		node->ops->order(node->ctx, ORDER_KILL_VM, "the VM is the peer's");
}

/* The VM's QEMU has ended: the secondary gets the right to speak. */
static void yield(struct node *node)
{
	if (node->is_primary) {
		uint8_t payload[8] = {0};

		node_send(node, LINK_FAST, MSG_HANDOVER, 0, payload, sizeof(payload));
	} else {
		node_send(node, LINK_FAST, MSG_REFUSED, 0, "the copy is given up", 20);
	}
	link_flush(node->link);
}

static void end_protection(struct node *node, uint32_t actions)
{
	if (actions & ROLE_ACT_STOP_COPY) {
		if (node->is_primary) {
			protection_over(node);
			node->ops->order(node->ctx, ORDER_ABORT_COPY, "the copy was not finished");
		} else {
			drop_copy(node);
		}
	}
	if ((actions & (ROLE_ACT_DROP_LINK | ROLE_ACT_GO_ALONE)) && link_is_up(node->link))
		link_drop(node->link, "the session is over");
	if (actions & ROLE_ACT_GO_ALONE) {
		protection_over(node);
		node->ops->order(node->ctx, ORDER_LEAVE_COLO, "the secondary is lost");
	}
}

/* In the order of act() in node.c. */
void stock_act(struct node *node, uint32_t actions)
{
	if (node->link) {
		if (actions & ROLE_ACT_YIELD)
			yield(node);
		end_protection(node, actions);
	}
	if (actions & ROLE_ACT_ASK)
		node_ask_fence(node);
	if (actions & ROLE_ACT_COPY)
		primary_copy(node);
	if ((actions & ROLE_ACT_SILENCE) && node->is_primary)
		silence(node);
	if (actions & ROLE_ACT_TAKE_OVER) {
		if (!node->takeover.detected_ns)
			node->takeover.detected_ns = node_realtime();
		if (!node->takeover.fenced_ns)
			node->takeover.fenced_ns = node_realtime();
		node->ops->order(node->ctx, ORDER_LEAVE_COLO, "the primary is lost");
	}
}

/* S: the VM has left COLO and runs: it speaks from here on. */
void stock_left_colo(struct node *node, bool ok, const char *text)
{
	char words[200];
	int r = -EIO;

	if (node->role.state != ROLE_TAKING_OVER)
		return;
	snprintf(words, sizeof(words), "%s", text);
	if (ok) {
		r = netif_enslave(node->tap, node->config->bridge);
		snprintf(words, sizeof(words), "connecting %s to bridge %s: %s", node->tap,
		         node->config->bridge, strerror(-r));
	}
	if (r < 0) {
		node_message(node, words);
		log_error("the takeover failed: %s; this side stays silent", words);
		return;
	}
	node->ops->order(node->ctx, ORDER_ANNOUNCE, "");
	node->takeover.live_ns = node_realtime();
	node_role(node, ROLE_EV_TAKEN_OVER);
	if (link_is_up(node->link)) {
		node_send(node, LINK_FAST, MSG_TAKEN, 0, NULL, 0);
		link_flush(node->link);
	}
}

/* ---- messages ---- */

static void to_secondary(struct node *node, uint8_t type, const uint8_t *payload, size_t len)
{
	switch (type) {
	case MSG_PROTECT:
		protect_asked(node, payload, len);
		return;
	case MSG_START:
		node_role(node, ROLE_EV_LINEAGE_0);
		return;
	case MSG_HANDOVER:
		node_event(node, "the primary's VM has ended");
		node->takeover.detected_ns = node->takeover.fenced_ns = node_realtime();
		node_role(node, ROLE_EV_PEER_YIELDED);
		return;
	case MSG_UNPROTECT:
		node_peer_unprotects(node, payload, len);
		return;
	default:
		link_drop(node->link, "a message that a primary with comparator = qemu does not "
		                      "send");
	}
}

void stock_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                   size_t len)
{
	if (!node->is_primary) {
		to_secondary(node, type, payload, len);
		return;
	}
	if (type == MSG_READY || type == MSG_REFUSED || type == MSG_TAKEN)
		primary_message(node, type, epoch, payload, len);
	else
		link_drop(node->link, "a message that a secondary with comparator = qemu does not "
		                      "send");
}
