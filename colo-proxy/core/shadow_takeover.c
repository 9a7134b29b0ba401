/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * After the takeover: the client knows the PVM's numbers and the survivor has its own, so the
 * mapping works in both directions (shadow_input() and shadow_translate()), until the connections
 * that need it have ended and the survivor's clock has caught up with the PVM's.
 */
#include "colo-proxy/core/shadow_private.h"

#include <string.h>

#include "colo-proxy/core/seq.h"

#define TS_TICK_NS    1000000u
#define EXPIRE_LOOKS  65536u         /* connections, a millisecond or two */
#define CLOSED_FOR_NS 60000000000ull /* a closed connection's last segments: TIME-WAIT of Linux */

void shadow_takeover(struct shadow *shadow, uint64_t now)
{
	uint32_t slot = shadow->lineage & 1;
	uint32_t lead = shadow->lead_epoch[slot] == shadow->lineage ? shadow->lead[slot] : 0;
	struct flow_entry *entry = flow_table_next(&shadow->flows, NULL), *next;

	shadow->speaking = true;
	shadow->taken_lead = lead;
	shadow->lead_until = now + (uint64_t)lead * TS_TICK_NS;
	for (; entry; entry = next) {
		struct flow *flow = (struct flow *)entry;

		next = flow_table_next(&shadow->flows, entry);
		flow->ts_delta += lead;
		if (!shadow_is_closed(flow))
			flow_table_use(entry, now);
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
	if (packet.tcp.flags & PACKET_FIN) {
		flow->fin_out = true;
		shadow->map_changes++;
	}
	shadow_note_reset(shadow, flow, packet.tcp.flags & PACKET_RST);
	if (packet.tcp.flags & PACKET_ACK) {
		flow->ack = flow->ack_known ? seq_max(flow->ack, packet.tcp.ack) : packet.tcp.ack;
		flow->ack_known = true;
	}
	shadow_note_ts(flow, &packet.tcp);
	shadow_note_state(shadow, flow, &packet, PACKET_FROM_VM, now);
	packet_map_out(&packet, shadow_seq_delta(flow, &packet.tcp), flow->ts_delta);
}

/* A connection that is open may say nothing for longer than two hours: Linux sends its first
 * keepalive after 7,200 s. One that its client has not answered is a flood's, or over. */
static bool is_over(const struct shadow *shadow, const struct flow *flow, uint64_t now)
{
	bool opening = flow->entry.state == FLOW_OPENING;
	uint64_t idle = flow_table_idle_ns(&flow->entry, now);

	return idle > flow_state_idle_ns(opening ? FLOW_OPENING : FLOW_OPENED) ||
	       (shadow_is_closed(flow) && idle > CLOSED_FOR_NS) ||
	       (shadow->speaking && now >= shadow->lead_until && !flow->seq_delta &&
	        !flow->ts_delta);
}

uint32_t shadow_expire(struct shadow *shadow, uint64_t now)
{
	struct flow_entry *entry = flow_table_from(&shadow->flows, shadow->expire_at);
	uint32_t looks = 0;

	while (entry && looks++ < EXPIRE_LOOKS) {
		struct flow_entry *next = flow_table_next(&shadow->flows, entry);

		if (is_over(shadow, (const struct flow *)entry, now))
			flow_table_remove(&shadow->flows, entry);
		entry = next;
	}
	shadow->expire_at = flow_table_number(&shadow->flows, entry);
	shadow->stats.mapped = shadow->speaking ? shadow->flows.count : 0;
	return shadow->stats.mapped;
}

const struct shadow_sources *shadow_sources(const struct shadow *shadow)
{
	return &shadow->sources;
}
