/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary's half: theory of operation
 *
 * Goal: tell the primary what the SVM says, in the PVM's numbers, byte for byte once; let the SVM
 * hear the client as if the client talked to it; and keep what is needed to go on talking to that
 * client when the PVM is gone.
 *
 * A fresh lineage is a clone: every connection in it has the PVM's numbers. A connection that is
 * opened later has an initial sequence number and a timestamp offset of its own in each VM. The
 * primary tells the PVM's in a FLOW_OPEN, and the SVM's own SYN or SYN-ACK is held back as a digest
 * until that is there. So the digest of a SYN, without which the primary releases nothing of the
 * connection, says: the mapping is known here (R7). The acknowledgement number of a SYN-ACK names
 * the incarnation; two handshakes that acknowledge different SYNs are never mapped.
 *
 *      PVM number = SVM number + seq_delta        PVM timestamp = SVM timestamp + ts_delta
 *
 * Digests of a connection cover consecutive ranges, each byte once: `told` is how far they went. A
 * hole in them (a frame that the guest lost, or overtook) is told when it comes (shadow_output.c).
 * A superframe is digested in pieces of its segment size, because the PVM, whose congestion window
 * has a history of its own, may cut the stream elsewhere, and a range can only be verified whole.
 *
 * At the takeover the mapping PVM <-> SVM becomes the mapping client <-> VM, since the client has
 * only ever heard the PVM's numbers. Timestamps get the lead that the primary has seen the PVM's
 * clock have over the SVM's on top, so that none goes back (RFC 7323 section 5: PAWS drops those).
 *
 * The files and the invariants are listed in shadow_private.h.
 *
 * Limits: a full table evicts connections that have ended or only begin, then those that need no
 * mapping; when every connection needs one, new ones are not digested, and the primary releases
 * them by commit.
 */
#include "colo-proxy/core/shadow_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

#define NO_EPOCH UINT32_MAX

/* ---- flows ---- */

static void flow_fini(void *ctx, struct flow_entry *entry)
{
	struct shadow *shadow = ctx;

	shadow_set_missing(shadow, (struct flow *)entry, false);
	shadow->map_changes++;
}

static void flow_fini_all(void *ctx)
{
	((struct shadow *)ctx)->missing = NULL;
}

/* A connection that needs its mapping stays while it lives. One whose SYN-ACK the client has not
 * answered goes when a flood of such fills the table: what is lost is an attempt, and its
 * comparison if it succeeds. */
static bool flow_may_go(const struct flow_entry *entry, enum flow_going why)
{
	const struct flow *flow = (const struct flow *)entry;

	if (why == FLOW_GOES_IDLE || entry->state == FLOW_CLOSED)
		return true;
	if (entry->state == FLOW_OPENING && (flow->pvm.has_ack || flow->svm.has_ack))
		return true;
	return !flow->mapped && !flow->pvm.seen && !flow->ts_delta;
}

static const struct flow_table_ops flow_ops = {
        .size = sizeof(struct flow),
        .lines = 3, /* what comes before the openings */
        .fini = flow_fini,
        .fini_all = flow_fini_all,
        .may_go = flow_may_go,
};

struct flow *shadow_flow_find(struct shadow *shadow, const struct flow_key *key, uint64_t now)
{
	return (struct flow *)flow_table_find(&shadow->flows, key, now);
}

struct flow *shadow_flow_get(struct shadow *shadow, const struct flow_key *key, uint64_t now)
{
	return (struct flow *)flow_table_get(&shadow->flows, key, now);
}

void shadow_note_state(struct shadow *shadow, struct flow *flow, const struct packet *packet,
                       enum packet_direction direction, uint64_t now)
{
	const struct packet_tcp *tcp = &packet->tcp;
	enum flow_state state = flow->entry.state;
	bool out = direction == PACKET_FROM_VM;

	if (shadow_is_closed(flow))
		state = FLOW_CLOSED;
	else if (flow->fin_out)
		state = FLOW_CLOSING;
	else if (tcp->flags & PACKET_SYN)
		state = out ? FLOW_OPENING : state;
	else if (out ||
	         (flow->pvm.seen && (tcp->flags & PACKET_ACK) && seq_gt(tcp->ack, flow->pvm.iss)))
		state = FLOW_OPENED;
	flow_table_set_state(&shadow->flows, &flow->entry, state, now);
}

void shadow_note_reset(struct shadow *shadow, struct flow *flow, bool reset)
{
	if (flow->reset == reset)
		return;
	flow->reset = reset;
	shadow->map_changes++;
}

void shadow_note_ts(struct flow *flow, const struct packet_tcp *tcp)
{
	if (!tcp->ts_off)
		return;
	if (tcp->flags & PACKET_SYN)
		flow->syn_tsval = tcp->tsval;
	flow->said_ts = flow->said_ts_known ? seq_max(flow->said_ts, tcp->tsval) : tcp->tsval;
	flow->said_ts_known = true;
}

/* ---- mapping ---- */

void shadow_try_map(struct shadow *shadow, struct flow *flow)
{
	struct digest digest = {
	        .key = flow->entry.key,
	        .kind = DIGEST_SEGMENT,
	        .tcp_flags = PACKET_SYN | (flow->svm.has_ack ? PACKET_ACK : 0),
	        .has_ts = flow->svm.has_ts,
	        .seq = flow->pvm.iss,
	        .len = 1,
	        .ack = flow->svm.ack,
	        .tsval = flow->pvm.tsval,
	};

	if (!flow->pvm.seen || flow->pvm.used || !flow->svm.seen || flow->svm.used ||
	    flow->pvm.has_ack != flow->svm.has_ack || flow->pvm.ack != flow->svm.ack)
		return;
	flow->mapped = flow->pvm.used = flow->svm.used = true;
	flow->seq_delta = flow->pvm.iss - flow->svm.iss;
	flow->ts_delta =
	        flow->pvm.has_ts && flow->svm.has_ts ? flow->pvm.tsval - flow->svm.tsval : 0;
	flow->told_known = true;
	flow->told = flow->hole = flow->hole_end = flow->svm.iss + 1;
	flow->ack_known = flow->svm.has_ack;
	flow->ack = flow->svm.ack;
	memcpy(digest.hash, flow->syn_hash, sizeof(digest.hash));
	shadow_tell(shadow, &digest);
}

static void remember_open(struct shadow *shadow, uint32_t epoch, const struct flow_open *open,
                          uint64_t now)
{
	struct future_open *future;

	if (shadow->futures >= shadow->flows.max)
		return; /* its SYN stays untold: released by commit only */
	future = malloc(sizeof(*future));
	if (!future)
		return; /* likewise */
	*future = (struct future_open){.epoch = epoch, .at = now, .open = *open};
	*shadow->future_end = future;
	shadow->future_end = &future->next;
	shadow->futures++;
}

void shadow_flow_open(struct shadow *shadow, uint32_t epoch, const struct flow_open *open,
                      uint64_t now)
{
	struct flow *flow;

	if (shadow->speaking || epoch < shadow->lineage)
		return;
	if (epoch > shadow->lineage) {
		remember_open(shadow, epoch, open, now);
		return;
	}
	flow = shadow_flow_get(shadow, &open->key, now);
	if (!flow)
		return;
	if (flow->pvm.seen && flow->pvm.iss == open->iss && flow->pvm.has_ack == open->has_ack &&
	    flow->pvm.ack == open->ack)
		return;
	flow->pvm = (struct opening){
	        .seen = true,
	        .has_ack = open->has_ack,
	        .has_ts = open->has_ts,
	        .iss = open->iss,
	        .ack = open->ack,
	        .tsval = open->tsval,
	};
	shadow_try_map(shadow, flow);
}

void shadow_ts_lead(struct shadow *shadow, uint32_t epoch, uint32_t ticks)
{
	uint32_t slot = epoch & 1;

	if (shadow->lead_epoch[slot] != epoch)
		shadow->lead[slot] = 0;
	shadow->lead_epoch[slot] = epoch;
	if (ticks > shadow->lead[slot])
		shadow->lead[slot] = ticks;
}

/* ---- lineages ---- */

void shadow_lineage(struct shadow *shadow, uint32_t lineage)
{
	struct future_open *future = shadow->future;

	flow_table_clear(&shadow->flows);
	fragments_clear(shadow->fragments);
	shadow->lineage = lineage;
	shadow->future = NULL;
	shadow->future_end = &shadow->future;
	shadow->futures = 0;
	while (future) {
		struct future_open *next = future->next;

		if (future->epoch > lineage)
			remember_open(shadow, future->epoch, &future->open, future->at);
		else if (future->epoch == lineage)
			shadow_flow_open(shadow, lineage, &future->open, future->at);
		free(future);
		future = next;
	}
}

/* ---- the rest ---- */

int shadow_new(struct shadow **ret_shadow, uint32_t max_flows, const struct packet_digest_key *key,
               const struct shadow_ops *ops, void *ctx)
{
	struct shadow *shadow = calloc(1, sizeof(*shadow));

	if (!shadow)
		return -ENOMEM;
	shadow->key = *key;
	shadow->future_end = &shadow->future;
	shadow->fragments = fragments_new();
	if (!shadow->fragments ||
	    flow_table_init(&shadow->flows, max_flows, &shadow->key, &flow_ops, shadow) != 0) {
		shadow_free(shadow);
		return -ENOMEM;
	}
	shadow->ops = ops;
	shadow->ctx = ctx;
	shadow->lead_epoch[0] = shadow->lead_epoch[1] = NO_EPOCH;
	*ret_shadow = shadow;
	return 0;
}

void shadow_free(struct shadow *shadow)
{
	if (!shadow)
		return;
	flow_table_fini(&shadow->flows);
	fragments_free(shadow->fragments);
	while (shadow->future) {
		struct future_open *next = shadow->future->next;

		free(shadow->future);
		shadow->future = next;
	}
	free(shadow);
}

void shadow_get_stats(const struct shadow *shadow, struct shadow_stats *ret_stats)
{
	*ret_stats = shadow->stats;
	ret_stats->flows = shadow->flows.count;
	ret_stats->high_flows = shadow->flows.high;
	ret_stats->flows_evicted = shadow->flows.evicted;
}
