/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mapping between a survivor and its clients (R7): theory of operation
 *
 * A survivor's shadow stays after the takeover, as the mapping between its clients and its VM, and
 * is the outermost thing on both ways: what the gate lets out is translated right before it leaves,
 * what clients send is translated on its way from the diversion into the tap (node_cut.c). Gate,
 * mirror, digests and checkpoints are in the VM's own numbers and know nothing of it.
 *
 * The secondary of a survivor needs the mapping when it takes over itself. It gets all of it before
 * START, and with each checkpoint whose cut finds it changed: a connection has ended, or its
 * 4-tuple is used anew. What the mapping was at the cut belongs to the state of the checkpoint; it
 * counts from the load on, like that, and is as if it never was when the checkpoint came half (R3).
 * Nothing is added to it while there is a secondary: the copy waits until the survivor's clock has
 * caught up (shadow_map_settled_at()).
 *
 * When no connection needs it any more the shadow goes, and the diversion ends.
 */
#include <errno.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

#define ENTRIES_PER_MESSAGE 512u
#define EXPIRE_EVERY_NS     (5000 * MS)

/* ---- on the survivor ---- */

/* How long the survivor's clock still takes to catch up; nothing is added to the mapping then. */
uint64_t map_settles_in(struct node *node)
{
	uint64_t at = node->shadow ? shadow_map_settled_at(node->shadow) : 0;
	uint64_t now = node_steady(node);

	return at > now ? at - now : 0;
}

void map_expire_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (!node->is_primary || !node->shadow)
		return;
	if (shadow_expire(node->shadow, node_steady(node)) == 0 && map_settles_in(node) == 0) {
		cut_unmap(node);
		shadow_free(node->shadow);
		node->shadow = NULL;
		node_event(node, "no connection needs its numbers mapped any more");
		return;
	}
	node_arm(node, &node->s.expire_timer, EXPIRE_EVERY_NS);
}

/* After a takeover. */
void map_begin(struct node *node)
{
	node_arm(node, &node->s.expire_timer, EXPIRE_EVERY_NS);
}

/* The VM has opened a connection; it may be held still. */
void map_flow_open(struct node *node, const struct flow_open *open)
{
	if (node->shadow)
		shadow_map_superseded(node->shadow, open);
}

/* The VM stands still for a checkpoint: what the mapping is belongs to it. */
void map_cut(struct node *node)
{
	struct primary *p = &node->p;
	uint64_t changes = node->shadow ? shadow_map_changes(node->shadow) + 1 : 0;

	p->map_due = changes != p->map_told;
	p->map_sent = 0;
	natmap_clear(&p->map);
	if (!p->map_due)
		return;
	if (node->shadow && shadow_map_export(node->shadow, &p->map) < 0) {
		/* The secondary keeps an older one: what has ended since is in it, too. */
		log_warn("no memory for the mapping of the connections; it is sent later");
		p->map_due = false;
		return;
	}
	p->map_told = changes;
}

/* True when all of it is on the link; call again when there is room. */
bool map_send(struct node *node, enum link_channel channel, uint32_t epoch)
{
	static uint8_t payload[MAP_HEAD_LEN + ENTRIES_PER_MESSAGE * MAP_ENTRY_WIRE_LEN];
	struct primary *p = &node->p;

	while (p->map_due) {
		uint32_t left = p->map.count - p->map_sent;
		uint32_t n = left < ENTRIES_PER_MESSAGE ? left : ENTRIES_PER_MESSAGE;
		struct iovec iov = {.iov_base = payload};

		iov.iov_len = MAP_HEAD_LEN + (size_t)n * MAP_ENTRY_WIRE_LEN;
		map_head_pack(payload, p->map.count, p->map_sent);
		for (uint32_t i = 0; i < n; i++)
			map_entry_pack(payload + MAP_HEAD_LEN + (size_t)i * MAP_ENTRY_WIRE_LEN,
			               &p->map.entry[p->map_sent + i]);
		if (link_send(node->link, channel, MSG_MAP, epoch, &iov, 1) != 0)
			return false;
		p->map_sent += n;
		p->map_due = p->map_sent < p->map.count;
	}
	return true;
}

/* ---- on its secondary ---- */

void map_arrived(struct node *node, const uint8_t *payload, size_t len)
{
	struct secondary *s = &node->s;
	uint32_t total, first, n;

	if (map_head_unpack(&total, &first, &n, payload, len) < 0 || first + (uint64_t)n > total ||
	    (!n && total) || (node->role.state != ROLE_JOINING && !s->ckpt_open)) {
		link_drop(node->link, "a mapping that is out of turn or malformed");
		return;
	}
	if (first == 0) {
		natmap_clear(&s->map_arriving);
		s->map_open = true;
	}
	if (!s->map_open || first != s->map_arriving.count) {
		link_drop(node->link, "a part of a mapping that does not fit");
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct natmap_entry entry;

		if (map_entry_unpack(&entry,
		                     payload + MAP_HEAD_LEN + (size_t)i * MAP_ENTRY_WIRE_LEN) < 0) {
			link_drop(node->link, "a mapping with an unknown kind of connection");
			return;
		}
		if (natmap_add(&s->map_arriving, &entry, (uint32_t)node->config->max_flows) < 0) {
			link_drop(node->link, "more mapped connections than max-flows allows");
			return;
		}
	}
	s->map_whole = s->map_arriving.count == total;
	s->map_open = !s->map_whole;
}

/* The lineage that begins has the mapping that came with it, or that of the one before. */
void map_begins(struct node *node)
{
	struct secondary *s = &node->s;

	if (s->map_whole)
		natmap_move(&s->map, &s->map_arriving);
	s->map_whole = s->map_open = false;
}

void map_clear(struct node *node)
{
	natmap_clear(&node->s.map);
	natmap_clear(&node->s.map_arriving);
	node->s.map_open = node->s.map_whole = false;
}
