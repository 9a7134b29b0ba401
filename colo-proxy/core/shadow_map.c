/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mapping between the clients and a survivor, from one takeover to the next.
 *
 * A survivor that is protected again is the PVM. All that gate and shadow then compare and map is
 * in its VM's numbers; what its clients believe is added outside. The new SVM is a clone, so for a
 * connection from before its lineage  client = PVM + old delta  and  PVM = SVM  give
 * client = SVM + old delta; for one that the lineage opened itself,  client = PVM  (nothing of it
 * is mapped on the survivor) and  PVM = SVM + new delta. So at the takeover the two tables are
 * united, and the lineage's own word about a 4-tuple wins.
 */
#include "colo-proxy/core/shadow_private.h"

static bool is_handed_on(const struct flow *flow)
{
	return (flow->seq_delta || flow->ts_delta) && !flow->superseded;
}

static enum flow_state state_of(const struct flow *flow)
{
	if (shadow_is_closed(flow))
		return FLOW_CLOSED;
	return flow->fin_out ? FLOW_CLOSING : FLOW_OPENED;
}

int shadow_map_export(const struct shadow *shadow, struct natmap *map)
{
	const struct flow_entry *entry = NULL;

	while ((entry = flow_table_next(&shadow->flows, entry))) {
		const struct flow *flow = (const struct flow *)entry;
		struct natmap_entry out = {
		        .key = entry->key,
		        .seq_delta = flow->seq_delta,
		        .ts_delta = flow->ts_delta,
		        .iss = flow->svm.iss,
		        .tsval = flow->opening ? flow->svm.tsval : 0,
		        .syn_tsval = flow->opening ? flow->syn_tsval : 0,
		        .iss_known = flow->svm.seen,
		        .fin_in = flow->fin_in,
		        .fin_out = flow->fin_out,
		        .reset = flow->reset,
		        .opening = flow->opening,
		};
		int r = is_handed_on(flow) ? natmap_add(map, &out, UINT32_MAX) : 0;

		if (r < 0) {
			natmap_clear(map);
			return r;
		}
	}
	return 0;
}

uint64_t shadow_map_changes(const struct shadow *shadow)
{
	return shadow->map_changes;
}

uint64_t shadow_map_settled_at(const struct shadow *shadow)
{
	return shadow->lead_until;
}

void shadow_map_superseded(struct shadow *shadow, const struct flow_open *open)
{
	struct flow *flow = (struct flow *)flow_table_peek(&shadow->flows, &open->key);

	if (!flow || flow->superseded || (flow->svm.seen && flow->svm.iss == open->iss))
		return;
	flow->superseded = true;
	shadow->map_changes++;
}

/*
 * A SYN of the lineage's own makes the 4-tuple a new connection, unless it is the old one's, said
 * again: a SYN-ACK that was lost before the takeover.
 */
static bool is_another(const struct opening *opening, const struct natmap_entry *old)
{
	return opening->seen && !(old->iss_known && opening->iss == old->iss);
}

/* Which echoes the VM takes before its handshake is over. */
static void adopt_opening(struct flow *flow, const struct natmap_entry *from)
{
	flow->svm.tsval = from->tsval;
	if (flow->opening)
		return; /* this lineage has heard the SYN again: that is the newest */
	flow->opening = true;
	flow->syn_tsval = from->syn_tsval;
	if (!flow->said_ts_known)
		flow->said_ts = from->syn_tsval;
	flow->said_ts_known = true;
}

uint32_t shadow_map_adopt(struct shadow *shadow, const struct natmap *map, uint64_t now)
{
	uint32_t left_out = 0;

	for (uint32_t i = 0; i < map->count; i++) {
		const struct natmap_entry *from = &map->entry[i];
		struct flow *flow = shadow_flow_get(shadow, &from->key, now);

		if (!flow) {
			left_out++;
			continue;
		}
		if (is_another(&flow->pvm, from) || is_another(&flow->svm, from))
			continue;
		flow->seq_delta = from->seq_delta;
		flow->ts_delta = from->ts_delta;
		flow->mapped = true; /* it is not evicted */
		flow->svm.seen = from->iss_known;
		flow->svm.iss = from->iss;
		if (from->opening)
			adopt_opening(flow, from);
		flow->fin_in |= from->fin_in;
		flow->fin_out |= from->fin_out;
		flow->reset |= from->reset && !flow->ack_known; /* else it has spoken since */
		flow_table_set_state(&shadow->flows, &flow->entry, state_of(flow), now);
	}
	return left_out;
}
