/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary becomes the one that speaks (R4, R6, R7). See node_secondary.c.
 *
 * The peer is off then, or has given its right away: nobody else has the VM, and the end of a
 * takeover must not fail for ever. QEMU may answer too late, the kernel may have no memory for a
 * tap, the bridge may not be there yet. Until all of it has worked this side is silent, and it is
 * tried again every RETRY_NS, from where QEMU is: an order to leave COLO that was carried out late
 * counts (colo_failover_secondary()), and what is made in the kernel is undone after a failure, so
 * that no attempt finds another one's.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/ether.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/announce.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/node/node_private.h"

#define RETRY_NS      (500 * MS)
#define MAX_ADDRESSES 8u /* of those in the configuration */

static struct secondary *of(struct node *node)
{
	return &node->s;
}

static_assert(MAX_ADDRESSES + SHADOW_MAX_ADDRESSES <= ANNOUNCE_MAX, "all have room");
static_assert(SHADOW_MAX_VLANS <= ANNOUNCE_MAX, "all have room");

static void add_ipv4(struct announce *known, const uint16_t tag[2], struct in_addr address)
{
	struct announce_ipv4 one = {{tag[0], tag[1]}, address};

	for (uint32_t i = 0; i < known->ipv4_count; i++) {
		if (memcmp(&known->ipv4[i], &one, sizeof(one)) == 0)
			return;
	}
	known->ipv4[known->ipv4_count++] = one;
}

static void add_ipv6(struct announce *known, const uint16_t tag[2], const struct in6_addr *address)
{
	struct announce_ipv6 one = {{tag[0], tag[1]}, *address};

	for (uint32_t i = 0; i < known->ipv6_count; i++) {
		if (memcmp(&known->ipv6[i], &one, sizeof(one)) == 0)
			return;
	}
	known->ipv6[known->ipv6_count++] = one;
}

static void collect_configured(const struct node *node, struct announce *known)
{
	static const uint16_t untagged[2];
	struct in_addr ipv4;
	struct in6_addr ipv6;

	ether_aton_r(node->config->mac, (struct ether_addr *)known->mac);
	for (char **text = node->config->addresses; *text; text++) {
		if (known->ipv4_count < MAX_ADDRESSES && inet_pton(AF_INET, *text, &ipv4) == 1)
			add_ipv4(known, untagged, ipv4);
		else if (known->ipv6_count < MAX_ADDRESSES &&
		         inet_pton(AF_INET6, *text, &ipv6) == 1)
			add_ipv6(known, untagged, &ipv6);
	}
}

static void collect_heard(const struct shadow_sources *heard, struct announce *known)
{
	if (heard->mac_known)
		memcpy(known->mac, heard->mac, sizeof(known->mac));
	known->vlan_count = heard->vlan_count;
	memcpy(known->vlan, heard->vlan, sizeof(heard->vlan));
	for (uint32_t i = 0; i < heard->ipv4_count; i++)
		add_ipv4(known, heard->ipv4[i].tag,
		         (struct in_addr){htonl(heard->ipv4[i].address)});
	for (uint32_t i = 0; i < heard->ipv6_count; i++) {
		struct in6_addr address;

		memcpy(&address, heard->ipv6[i].address, sizeof(address));
		add_ipv6(known, heard->ipv6[i].tag, &address);
	}
}

/* The configured addresses, and those that the VM was heard to speak from. */
static void announce(struct node *node)
{
	struct announce known = {0};
	struct frame *list = NULL;

	collect_configured(node, &known);
	if (node->shadow)
		collect_heard(shadow_sources(node->shadow), &known);
	if (of(node)->announcements >= ANNOUNCE_FAST)
		known.ipv4_count = known.ipv6_count = 0;
	if (announce_build(&known, &list) < 0)
		return; /* no memory: the next one comes soon, and the VM speaks itself */
	while (list) {
		struct frame *next = list->next;

		list->next = NULL;
		node_release(node, list, true);
		list = next;
	}
	hold_flush(node->hold);
}

static void announce_next(struct node *node)
{
	uint64_t wait = announce_wait_ns(++of(node)->announcements);

	if (wait)
		node_arm(node, &of(node)->announce_timer, wait);
}

void secondary_announce_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	/* Otherwise the VM may be elsewhere by now (R6); or this side will speak again. */
	if (role_speaks(&node->role))
		announce(node);
	else if (node->role.state == ROLE_PROTECTED)
		of(node)->announce_at_commit = true;
	announce_next(node);
}

/* A protected side says nothing that its secondary has not agreed to just now. */
void node_announce_committed(struct node *node)
{
	if (of(node)->announce_at_commit)
		announce(node);
	of(node)->announce_at_commit = false;
}

void node_announce(struct node *node)
{
	of(node)->announcements = 0;
	announce(node);
	announce_next(node);
}

/* The bridge comes last: before it nothing is heard, and nothing can be said. */
static int connect_tap(struct node *node, char *err, size_t errlen)
{
	int r = cut_map(node);

	if (r == 0)
		r = hold_set_mute(node->hold, false);
	if (r == 0)
		r = netif_enslave(node->tap, node->config->bridge);
	if (r < 0)
		snprintf(err, errlen, "connecting %s to bridge %s: %s", node->tap,
		         node->config->bridge, strerror(-r));
	return r;
}

/* In the order of reprotect_follow(): also where the kernel has done what it says has failed. */
static void undo(struct node *node)
{
	int r = netif_release(node->tap);
	int m = hold_set_mute(node->hold, true);

	if (r < 0 || m < 0)
		log_error("%s is not cut off from bridge %s again: %s", node->tap,
		          node->config->bridge, strerror(r < 0 ? -r : -m));
	cut_close(node);
}

static int go_live(struct node *node, char *err, size_t errlen)
{
	int r = intercept_open(node->tap, NULL, (uint32_t)node->config->mark, 0, &node->intercept,
	                       err, errlen);

	if (r < 0)
		return r;
	r = connect_tap(node, err, errlen);
	if (r < 0)
		undo(node);
	return r;
}

/* Each cause is logged once, not each attempt. */
static void try_later(struct node *node, const char *why)
{
	char words[sizeof(node->message)];

	snprintf(words, sizeof(words), "the takeover failed: %.200s; it is tried again", why);
	if (strcmp(words, node->message) != 0) {
		node_message(node, words);
		log_error("%s", words);
	}
	node_arm(node, &of(node)->live_timer, RETRY_NS);
}

/* The VM has left COLO and runs: it speaks from here on, and this side is a primary. */
static void speak(struct node *node)
{
	struct secondary *s = of(node);
	uint64_t now = node_steady(node);
	char err[200] = "no memory";
	uint32_t left_out;
	struct frame *frame;

	if (go_live(node, err, sizeof(err)) < 0) {
		try_later(node, err);
		return;
	}
	node_drain_hold(node);
	left_out = shadow_map_adopt(node->shadow, &s->map, now);
	if (left_out)
		log_error("%u connections find no room in max-flows and are lost", left_out);
	shadow_takeover(node->shadow, now);
	input_log_clear(&s->log);
	s->next_to_feed = NULL;
	node_announce(node);
	secondary_replay(node);
	while ((frame = frame_queue_pop(&s->backlog)))
		secondary_speak(node, frame);
	hold_flush(node->hold);
	node->takeover.live_ns = node_realtime();
	node->takeover.lineage = s->lineage;
	if (link_is_up(node->link)) {
		node_send(node, LINK_FAST, MSG_TAKEN, s->lineage, NULL, 0);
		link_flush(node->link);
	}
	reprotect_lead(node);
	node_role(node, ROLE_EV_TAKEN_OVER);
	node_beat_now(node);
}

void secondary_left_colo(struct node *node, bool ok, const char *text)
{
	if (node->role.state != ROLE_TAKING_OVER)
		return;
	of(node)->left_colo = ok;
	if (ok)
		speak(node);
	else
		try_later(node, text);
}

static void leave_colo(struct node *node)
{
	node->ops->order(node->ctx, ORDER_LEAVE_COLO, "the primary is lost");
}

void secondary_live_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (node->role.state != ROLE_TAKING_OVER)
		return;
	if (of(node)->left_colo)
		speak(node);
	else
		leave_colo(node);
}

void secondary_leave_colo(struct node *node)
{
	secondary_feed(node);
	secondary_close_svm(node);
	leave_colo(node);
}

void secondary_take_over(struct node *node)
{
	struct secondary *s = of(node);

	if (!node->takeover.detected_ns)
		node->takeover.detected_ns = node_realtime();
	if (!node->takeover.fenced_ns)
		node->takeover.fenced_ns = node_realtime();
	s->taking_over = true;
	secondary_forget(node);
	if (s->ckpt_open) {
		s->ckpt_open = false; /* it came half: as if it never was (R3) */
		node_event(node, "checkpoint %lu came half and is dropped",
		           (unsigned long)s->ckpt.epoch);
		ckpt_buf_reset(&s->ckpt.buf);
	}
	if (s->kept)
		still_take_over(node);
	else if (!s->ckpt_whole)
		secondary_leave_colo(node);
	/* vm_loaded() goes on */
}
