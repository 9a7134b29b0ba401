/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_SHADOW_PRIVATE_H
#define COLO_CORE_SHADOW_PRIVATE_H

#include "colo-proxy/core/shadow.h"

#include <assert.h>
#include <stddef.h>

#include "colo-proxy/core/flow_table.h"
#include "colo-proxy/core/fragments.h"

/*
 * What the shadow's files share. Nobody else includes this.
 *
 *   shadow.c           theory of operation; lineages, and the mapping of connections opened in one
 *   shadow_output.c    what the SVM says, as digests
 *   shadow_input.c     what the client says, to the SVM, and what of it must be fed again
 *   shadow_takeover.c  after the takeover: translating between the client and the VM
 *   shadow_map.c       that mapping, handed on to the next secondary and taken up by it
 *
 * Invariants:
 *  - seq_delta and ts_delta of a flow are zero unless it is mapped, or, after the takeover, the
 *    lead of the clock applies to it.
 *  - shadow->missing is the list of the flows with `missing` set.
 *  - A flow that is mapped, or whose opening by the PVM is known, is not evicted unless it has
 * ended or the client has not answered its SYN-ACK.
 *  - After the takeover no mapping begins.
 */

/* A SYN or SYN-ACK of one of the two VMs. */
struct opening {
	bool seen, has_ack, has_ts;
	bool used; /* mapped: it never belongs to another one again */
	uint32_t iss, ack, tsval;
};

struct flow {
	struct flow_entry entry; /* first: it is what the table knows */
	bool mapped;             /* the deltas are those of a handshake of this lineage */
	bool told_known, ack_known;
	bool fin_in, fin_out, reset;
	/* superseded: a survivor's: the VM has opened the 4-tuple anew, and that is held. */
	bool superseded : 1, said_ts_known : 1;
	bool fed_ts_known, fed_ack_known;
	bool fed_known, missing; /* missing: the SVM repeats its acknowledgement */
	bool opening;     /* of what the VM said, the client has acknowledged its SYN at most */
	uint32_t fed;     /* number behind the last byte of the client's that was fed */
	uint32_t fed_ts;  /* the newest timestamp of the client's */
	uint32_t fed_ack; /* the highest acknowledgement of the client's, PVM number */
	uint32_t missing_until;  /* `fed` when that began */
	uint32_t repeats;        /* acknowledgements in a row that were the same */
	uint32_t told;           /* SVM number behind the last digested byte */
	uint32_t hole, hole_end; /* what is not told below that; empty when equal */
	uint32_t ack;            /* highest acknowledgement told */
	uint32_t seq_delta, ts_delta;
	uint32_t syn_tsval; /* of the VM's newest SYN; that of its first is in svm */
	uint32_t said_ts;   /* the VM's newest timestamp */
	/* Line 2, which few packets need. */
	_Alignas(FLOW_LINE) struct opening pvm;
	struct opening svm;
	uint8_t syn_hash[16];
	struct flow *missing_next, **missing_at;
};
static_assert(sizeof(struct flow) == 3 * FLOW_LINE, "the documents say so");
static_assert(offsetof(struct flow, entry) == 0, "the table frees a flow by its entry");

struct future_open {
	struct future_open *next;
	uint32_t epoch;
	uint64_t at; /* when it came */
	struct flow_open open;
};

struct shadow {
	struct packet_digest_key key;
	const struct shadow_ops *ops;
	void *ctx;
	uint32_t lineage;
	bool speaking; /* after the takeover */
	struct flow_table flows;
	struct future_open *future, **future_end; /* in the order in which they came */
	uint32_t futures;
	struct flow *missing; /* flows whose input is missing, the newest first */
	uint32_t lead_epoch[2], lead[2];
	uint32_t expire_at;     /* where shadow_expire() goes on */
	uint32_t taken_lead;    /* of the lineage that took over */
	uint64_t lead_until;    /* the survivor's clock has caught up with the lead then */
	struct recent_map last; /* of the packet that shadow_output() saw last */
	uint64_t map_changes;
	struct fragments *fragments; /* of this lineage */
	struct shadow_sources sources;
	struct shadow_stats stats; /* but for the flows: the table counts them */
};

/* ---- shadow.c ---- */

/* The flow of a key, which is used now; get: made if need be. NULL when there is, or fits, none. */
struct flow *shadow_flow_find(struct shadow *shadow, const struct flow_key *key, uint64_t now);
struct flow *shadow_flow_get(struct shadow *shadow, const struct flow_key *key, uint64_t now);

/* Notes what a segment from the VM or the client says of where the connection is. */
void shadow_note_state(struct shadow *shadow, struct flow *flow, const struct packet *packet,
                       enum packet_direction direction, uint64_t now);

/* Reset, or a FIN from both sides: what comes yet belongs to its last segments. */
static inline bool shadow_is_closed(const struct flow *flow)
{
	return flow->reset || (flow->fin_in && flow->fin_out);
}

/* What makes the number of the VM's segment the client's. A RST that answers a SYN has no stream:
 * its number is 0 (RFC 9293 section 3.5.2). */
static inline uint32_t shadow_seq_delta(const struct flow *flow, const struct packet_tcp *tcp)
{
	if (!tcp->seq && (tcp->flags & PACKET_RST) && (tcp->flags & PACKET_ACK))
		return 0;
	return flow->seq_delta;
}

/* Notes the timestamp of a segment of the VM's. */
void shadow_note_ts(struct flow *flow, const struct packet_tcp *tcp);

/* Notes that the connection was reset, or that it lives on: a RST that was not taken, or that was
 * said to a half-open peer (RFC 9293 section 3.5.1). */
void shadow_note_reset(struct shadow *shadow, struct flow *flow, bool reset);

/* Maps the flow if the handshakes of both VMs are known and belong together: tells the SYN. */
void shadow_try_map(struct shadow *shadow, struct flow *flow);

/* ---- shadow_output.c ---- */

/* Gives the digest to the primary, in this lineage. */
void shadow_tell(struct shadow *shadow, const struct digest *digest);

/* Notes the packet's source as an address of the VM's. */
void shadow_note_source(struct shadow *shadow, const struct packet *packet);

/* The client has acknowledged the SVM's stream up to `ack`: no hole below it will be filled. */
void shadow_note_peer_ack(struct flow *flow, uint32_t ack);

/* ---- shadow_input.c ---- */

/* Input of the flow is missing, or not any more. */
void shadow_set_missing(struct shadow *shadow, struct flow *flow, bool missing);

/* Looks at the acknowledgement of the SVM's segment: does it miss input? */
void shadow_watch_ack(struct shadow *shadow, struct flow *flow, const struct packet *packet);

#endif
