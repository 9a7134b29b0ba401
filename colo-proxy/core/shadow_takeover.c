/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * After the takeover: the client knows the PVM's numbers and the survivor has its own, so the
 * mapping works in both directions (shadow_input() and shadow_translate()), until the connections
 * that need it have ended and the survivor's clock has caught up with the PVM's.
 */
#include "colo-proxy/core/shadow_private.h"

#include <string.h>

#define TS_TICK_NS    1000000u
#define CLOSED_FOR_NS 60000000000ull /* a closed connection's last segments: TIME-WAIT of Linux */

void shadow_takeover(struct shadow *shadow, uint64_t now)
{
	uint32_t slot = shadow->lineage & 1;
	uint32_t lead = shadow->lead_epoch[slot] == shadow->lineage ? shadow->lead[slot] : 0;
	struct flow_entry *next;

	shadow->speaking = true;
	shadow->taken_lead = lead;
	shadow->lead_until = now + (uint64_t)lead * TS_TICK_NS;
	for (struct flow_entry *entry = shadow->flows.oldest; entry; entry = next) {
		struct flow *flow = (struct flow *)entry;

		next = entry->newer;
		flow->ts_delta += lead;
		if (!flow->reset && !(flow->fin_in && flow->fin_out))
			flow->used = now;
		if (!flow->seq_delta && !flow->ts_delta)
			flow_table_remove(&shadow->flows, entry);
	}
	shadow->stats.mapped = shadow->flows.count;
}

/*
 * The first word of a connection that the lineage had been silent on. The PVM may have shown the
 * client its clock there, so the lead applies; a connection that begins now is only remembered
 * for as long as it could be taken for an old one.
 */
static struct flow *lead_flow(struct shadow *shadow, const struct flow_key *key,
                              const struct packet *packet, uint64_t now)
{
	struct flow *flow;

	if (now >= shadow->lead_until || !packet->tcp.ts_off)
		return NULL;
	flow = shadow_flow_get(shadow, key, now);
	if (flow && !(packet->tcp.flags & PACKET_SYN))
		flow->ts_delta = shadow->taken_lead;
	return flow;
}

void shadow_translate(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;

	if (packet_parse(&packet, frame) != 0 ||
	    packet_flow_key(&packet, PACKET_FROM_VM, &key) != 0)
		return;
	shadow_note_source(shadow, &packet);
	if (packet.class != PACKET_TCP)
		return;
	flow = shadow_flow_find(shadow, &key, now);
	if (!flow)
		flow = lead_flow(shadow, &key, &packet, now);
	if (!flow)
		return;
	if ((packet.tcp.flags & PACKET_SYN) && (flow->seq_delta || flow->ts_delta) &&
	    !(flow->svm.seen && flow->svm.iss == packet.tcp.seq)) {
		/* The 4-tuple is used again; the new connection needs no map. */
		flow_table_remove(&shadow->flows, &flow->entry);
		return;
	}
	if (packet.tcp.flags & PACKET_FIN)
		flow->fin_out = true;
	if (packet.tcp.flags & PACKET_RST)
		flow->reset = true;
	packet_map_out(&packet, flow->seq_delta, flow->ts_delta);
}

uint32_t shadow_expire(struct shadow *shadow, uint64_t idle_ns, uint64_t now)
{
	struct flow_entry *next;

	for (struct flow_entry *entry = shadow->flows.oldest; entry; entry = next) {
		const struct flow *flow = (const struct flow *)entry;
		bool closed = flow->reset || (flow->fin_in && flow->fin_out);
		uint64_t idle = now - flow->used;

		next = entry->newer;
		if (idle > idle_ns || (closed && idle > CLOSED_FOR_NS) ||
		    (shadow->speaking && now >= shadow->lead_until && !flow->seq_delta &&
		     !flow->ts_delta))
			flow_table_remove(&shadow->flows, entry);
	}
	shadow->stats.mapped = shadow->speaking ? shadow->flows.count : 0;
	return shadow->stats.mapped;
}

const struct shadow_sources *shadow_sources(const struct shadow *shadow)
{
	return &shadow->sources;
}
