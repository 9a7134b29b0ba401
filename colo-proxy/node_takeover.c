/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The secondary becomes the one that speaks (R4, R6, R7). See node_secondary.c. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ether.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/announce.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/node_private.h"

#define ANNOUNCE_EVERY_NS (200 * MS)
#define MAX_ADDRESSES     8u
#define ANNOUNCE_TIMES    5u

static struct secondary *of(struct node *node)
{
	return &node->s;
}

/* What is announced: the configured addresses, and those that the VM was heard to speak from. */
struct known {
	uint8_t mac[6];
	struct in_addr ipv4[MAX_ADDRESSES + SHADOW_MAX_ADDRESSES];
	struct in6_addr ipv6[MAX_ADDRESSES + SHADOW_MAX_ADDRESSES];
	size_t ipv4_count, ipv6_count;
};

static void collect(const struct node *node, struct known *known)
{
	static const struct shadow_sources none;
	const struct shadow_sources *heard = node->shadow ? shadow_sources(node->shadow) : &none;

	*known = (struct known){0};
	ether_aton_r(node->config->mac, (struct ether_addr *)known->mac);
	for (char **text = node->config->addresses; *text; text++) {
		if (known->ipv4_count < MAX_ADDRESSES &&
		    inet_pton(AF_INET, *text, &known->ipv4[known->ipv4_count]) == 1)
			known->ipv4_count++;
		else if (known->ipv6_count < MAX_ADDRESSES &&
		         inet_pton(AF_INET6, *text, &known->ipv6[known->ipv6_count]) == 1)
			known->ipv6_count++;
	}
	if (heard->mac_known)
		memcpy(known->mac, heard->mac, sizeof(known->mac));
	for (uint32_t i = 0; i < heard->ipv4_count; i++) {
		size_t same = 0;

		while (same < known->ipv4_count &&
		       known->ipv4[same].s_addr != htonl(heard->ipv4[i]))
			same++;
		if (same == known->ipv4_count)
			known->ipv4[known->ipv4_count++].s_addr = htonl(heard->ipv4[i]);
	}
	for (uint32_t i = 0; i < heard->ipv6_count; i++) {
		size_t same = 0;

		while (same < known->ipv6_count &&
		       memcmp(&known->ipv6[same], heard->ipv6[i], 16) != 0)
			same++;
		if (same == known->ipv6_count)
			memcpy(&known->ipv6[known->ipv6_count++], heard->ipv6[i], 16);
	}
}

static void announce(struct node *node)
{
	struct known known;
	struct frame *list = NULL;

	collect(node, &known);
	if (announce_build(known.mac, known.ipv4, known.ipv4_count, known.ipv6, known.ipv6_count,
	                   &list) < 0)
		return; /* no memory: the next one comes soon, and the VM speaks itself */
	while (list) {
		struct frame *next = list->next;

		list->next = NULL;
		node_release(node, list, true);
		list = next;
	}
	hold_flush(node->hold);
}

void secondary_announce_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (!role_speaks(&node->role) && node->role.state != ROLE_PROTECTED)
		return; /* the VM may be elsewhere by now (R6) */
	announce(node);
	if (++of(node)->announcements < ANNOUNCE_TIMES)
		node_arm(node, &of(node)->announce_timer, ANNOUNCE_EVERY_NS);
}

void node_announce(struct node *node)
{
	of(node)->announcements = 0;
	announce(node);
	node_arm(node, &of(node)->announce_timer, ANNOUNCE_EVERY_NS);
}

static int go_live(struct node *node, char *err, size_t errlen)
{
	int r = intercept_open(node->tap, NULL, (uint32_t)node->config->mark, 0, &node->intercept,
	                       err, errlen);

	if (r < 0)
		return r;
	r = cut_map(node);
	if (r == 0)
		r = netif_enslave(node->tap, node->config->bridge);
	if (r == 0)
		r = hold_set_mute(node->hold, false);
	if (r < 0)
		snprintf(err, errlen, "connecting %s to bridge %s: %s", node->tap,
		         node->config->bridge, strerror(-r));
	return r;
}

/* The VM has left COLO and runs: it speaks from here on, and this side is a primary. */
void secondary_left_colo(struct node *node, bool ok, const char *text)
{
	struct secondary *s = of(node);
	uint64_t now = node_steady(node);
	char err[200];
	uint32_t left_out;
	struct frame *frame;

	if (node->role.state != ROLE_TAKING_OVER)
		return;
	if (!ok || go_live(node, err, sizeof(err)) < 0) {
		node_message(node, ok ? err : text);
		log_error("the takeover failed: %s; this side stays silent", ok ? err : text);
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

void secondary_leave_colo(struct node *node)
{
	secondary_feed(node);
	secondary_close_svm(node);
	node->ops->order(node->ctx, ORDER_LEAVE_COLO, "the primary is lost");
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
