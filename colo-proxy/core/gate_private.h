/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_GATE_PRIVATE_H
#define COLO_CORE_GATE_PRIVATE_H

#include "colo-proxy/core/gate.h"

#include <assert.h>
#include <stddef.h>

#include "colo-proxy/core/flow_table.h"
#include "colo-proxy/core/fragments.h"
#include "colo-proxy/core/lag.h"
#include "colo-proxy/core/pool.h"

/*
 * What the gate's files share. Nobody else includes this.
 *
 *   gate.c         theory of operation; the public functions: who speaks, epochs, requests
 *   gate_flow.c    what is known of a flow: its views, the SVM's digests that wait
 *   gate_held.c    the held frames: in, out, and cut in two
 *   gate_fragment.c  the held fragments of one packet: compared as the packet that they make
 *   gate_verify.c  the SVM's TCP stream against the held bytes: moves coverage
 *   gate_cut.c     a range of the SVM's that goes on behind what the PVM has said, in two
 *   gate_spoken.c  which bytes have been said: what only claims to repeat them is not let out
 *   gate_match.c   whether a held frame has been said by the SVM: releases by match
 *   gate_membership.c  the same of IGMP and MLD reports, group by group
 *   gate_evidence.c  which packets a divergence is shown with
 *
 * Invariants:
 *  - A held frame is in the list of all (oldest .. newest), and in exactly one flow's list (head ..
 *    tail) unless it is not comparable. Both lists are in the order of arrival. Of a packet in
 *    fragments the last one is in the flow's list, and the others in its list of pieces.
 *  - Epochs in the list of all never decrease. first_of_epoch is the oldest frame of the current
 *    epoch, NULL when there is none.
 *  - stats.now_bytes and stats.now_packets are the sums over the list of all.
 *  - gate->pending is the sum of view->pending over all views.
 *  - A flow that holds a frame is not evicted. One of a group (FLOW_GROUP) holds none.
 *  - Coverage (view->covered_end) begins in gate_flow.c, at what the checkpoint has or at the SYN
 * of a new incarnation, or else at the first digest. From there it moves forward, in gate_verify.c
 *    only, by what a digest has proved.
 */

#define NO_EPOCH UINT32_MAX

/* A packet that was said in fragments, with the last of which it is compared. */
struct whole {
	struct frame *frame;
	struct packet packet; /* of that frame */
	struct held *pieces;  /* the fragments before the last, by arrival, through flow_next */
};

struct held {
	struct held *older, *newer; /* all, by arrival */
	struct held *flow_next;     /* of the flow, by arrival */
	struct flow *flow;          /* NULL: not comparable */
	struct frame *frame;
	struct packet packet;
	uint64_t arrived;
	uint32_t epoch;
	uint32_t incarnation; /* TCP: of the 4-tuple, see struct flow */
	uint32_t end;         /* TCP: sequence number behind it; a fragment: its packet's serial */
	bool joined;          /* a fragment of a packet that is all there, and not its last one */
	struct whole *whole;  /* the last fragment's; else NULL */

	/* TCP, see gate_spoken.c: the part that digests were verified over, [start, end). */
	bool proved : 1, proved_syn : 1, proved_fin : 1;
	bool looked : 1; /* what it says was not all known when flow->spoken was at looked_at */
	uint32_t proved_start, proved_end;
	uint64_t looked_at;
	uint32_t remembered;    /* bytes of it that are known to be said by a digest */
	uint32_t first_segment; /* the first one's length, when it is the rest of a cut one; else 0
	                         */
};

struct pending {
	struct pending *next;
	struct digest digest;
	uint64_t at; /* when it came */
	bool passed; /* a datagram that is in front of one that has matched; those are the first */
	bool cut_asked; /* the secondary was asked for it in two, at cut_at */
	uint32_t cut_at;
};

/* What is known of a flow in one epoch. There are two for each flow. */
struct view {
	_Alignas(FLOW_LINE) uint32_t epoch; /* NO_EPOCH: unused */
	bool broken : 1;                    /* nothing more of the flow matches in this epoch */
	bool covered_known : 1;
	bool covered_low_open : 1; /* everything below covered_end is covered */
	bool ack_known : 1;
	bool rst : 1;
	bool syn_awaited : 1; /* a connection of this epoch, whose SYN the SVM has not said */
	bool ts_known : 1;
	bool word_known : 1;
	uint32_t pending : 24; /* digests to be verified */
	union {
		struct {
			uint32_t covered_start, covered_end;
			uint32_t ack; /* the SVM's */
			uint32_t rst_seq, rst_ack;
			uint32_t ts;
		};
		uint8_t word[PACKET_DIGEST_LEN]; /* of a group: the newest one, of the SVM's or in
		                                    the checkpoint */
	};
	uint64_t ts_at;
	struct pending *last; /* of the digests to be verified, a ring; NULL: none */
};
static_assert(sizeof(struct view) == FLOW_LINE, "a packet needs one of a flow's two");

struct flow {
	struct flow_entry entry; /* first: it is what the table knows */
	struct flow *touched_next;
	struct held *head, *tail;
	uint64_t spoken; /* what has been said, see gate_spoken.c: its newest piece; 0: none */
	union {
		struct {
			uint32_t incarnation; /* counts the connections that used the 4-tuple */
			uint32_t iss, snd_max, ack_max;
		};
		uint8_t word[PACKET_DIGEST_LEN]; /* of a group: the PVM's newest */
	};
	union {
		uint32_t open_epoch;   /* in which the secondary was told of iss */
		uint32_t word_unclear; /* gate->unclear, when the word was said */
	};
	bool iss_known : 1, snd_known : 1, ack_known : 1, word_known : 1;
	bool touched : 1, judged : 1;
	uint8_t action; /* enum policy_action, once judged; views and frames with COMPARE only */
	struct view view[2]; /* of the current epoch and the one before, by parity */
};
static_assert(offsetof(struct flow, entry) == 0, "the table frees a flow by its entry");
static_assert(offsetof(struct flow, view) == 2 * FLOW_LINE, "see gate_flow_lines()");
static_assert(sizeof(struct flow) == 4 * FLOW_LINE, "the documents say so");

struct gate {
	struct packet_digest_key key;
	uint8_t *joined; /* FRAME_MAX_LEN bytes for a range that lies in several frames */
	struct gate_limits limits;
	const struct gate_ops *ops;
	const struct policy *policy;
	void *ctx;
	bool protected;
	bool comparing; /* of the next epochs */
	bool compared;  /* this epoch is */
	uint32_t epoch, committed;
	uint32_t broken_below; /* epochs before it match no more: gate_break(), or not compared */
	uint64_t committed_at; /* when C(committed) was */
	uint64_t now;          /* when the last call was */
	uint64_t cut_at[2];    /* when the epoch began, by parity */
	uint32_t pending;      /* digests that wait, in all flows */
	uint32_t requested;    /* bit mask of enum ckpt_cause, of this epoch */
	uint32_t ts_lead[2];   /* told in this epoch and the one before */
	struct held *oldest, *newest, *first_of_epoch;
	struct flow *touched;
	struct flow_table flows;
	struct pool held_pool, pending_pool;
	struct piece *pieces;        /* what has been said, in all flows: gate_spoken.c */
	uint64_t spoken;             /* the newest one's number */
	struct fragments *fragments; /* of the current epoch */
	struct lag lag;              /* of the SVM since protection began */
	uint64_t cut_asked_at;       /* when the secondary was last asked for a range in two */
	uint32_t unclear;            /* counts the PVM's reports of which not all words are known */
	struct gate_stats stats;     /* but for the flows: the table counts them */
};

/* Sequence number of the first byte of its payload. */
static inline uint32_t gate_held_data(const struct held *held)
{
	return held->packet.tcp.seq + !!(held->packet.tcp.flags & PACKET_SYN);
}

/* ---- gate.c ---- */

/* Asks for a checkpoint, once for each cause and epoch. flow: NULL when no single one is why. */
void gate_request(struct gate *gate, enum ckpt_cause cause, const struct flow *flow, uint32_t seq,
                  const char *what);

/* The two VMs differ: nothing more of the flow matches in the view's epoch. The view's first digest
 * is what the SVM has said instead. */
void gate_mismatch(struct gate *gate, struct flow *flow, struct view *view, uint32_t seq,
                   const char *what);

/* Whether the record can have been made from one packet of its flow. */
bool gate_digest_sane(const struct digest *digest);

/* The flow that the packet is compared in; NULL: not comparable. Sets packet->why when that is for
 * a reason which the parser does not know. */
struct flow *gate_flow_of(struct gate *gate, struct packet *packet);

/* ---- gate_evidence.c ---- */

/* Fills in the flow, and the PVM's packets of the epoch that have a part of [seq, seq + len). */
void gate_evidence(const struct flow *flow, uint32_t epoch, struct divergence *why);

/* What a packet that the SVM does not release asks for: LATE when the SVM could still say it. A
 * fragment waits for the SVM when its packet is whole. */
enum ckpt_cause gate_held_cause(const struct held *held);

/* Asks for a checkpoint, once for its cause and epoch, and tells what the packet waits for and how
 * far the SVM is. */
void gate_request_held(struct gate *gate, const struct held *held);

/* ---- gate_flow.c ---- */

extern const struct flow_table_ops gate_flow_ops;

/* The lines of a flow that a packet of the epoch needs: all but the other epoch's view. */
uint32_t gate_flow_lines(uint32_t epoch);

/* The flow of a key, made and judged if need be; NULL when the table is full of busy flows. */
struct flow *gate_flow_get(struct gate *gate, const struct flow_key *key);

/* Protection begins: no flow has a view. */
void gate_flow_clear_views(struct gate *gate);

/* The flow's view of an epoch, made at first use; NULL for an epoch that is over. */
struct view *gate_view_make(struct gate *gate, struct flow *flow, uint32_t epoch);
static inline struct view *gate_view_get(struct gate *gate, struct flow *flow, uint32_t epoch)
{
	struct view *view = &flow->view[epoch & 1];

	return view->epoch == epoch ? view : gate_view_make(gate, flow, epoch);
}

/* A SYN with another initial sequence number: the 4-tuple is used by a new connection. What waits
 * of the old one can only be committed. */
void gate_flow_new_incarnation(struct gate *gate, struct flow *flow, struct view *view,
                               const struct packet_tcp *tcp);

/* What a TCP segment with these flags, of either VM, says of where the connection is. */
void gate_flow_note_state(struct gate *gate, struct flow *flow, uint32_t flags);

/* What the PVM has sent and acknowledged so far: the base of the next epoch's view. */
void gate_flow_note_sent(struct flow *flow, const struct packet *packet);

/* The view's digests, first in, first out. Too many of them, or no memory, break the view. */
void gate_pending_add(struct gate *gate, struct flow *flow, struct view *view,
                      const struct digest *digest);
void gate_pending_pop(struct gate *gate, struct view *view);
/* Takes out the one behind `before`. */
void gate_pending_take(struct gate *gate, struct view *view, struct pending *before);

static inline struct pending *gate_pending_first(const struct view *view)
{
	return view->last ? view->last->next : NULL;
}

/* ---- gate_held.c ---- */

/* Takes the frame as the newest of all and of its flow (NULL: not comparable). -ENOMEM: untaken. */
int gate_held_append(struct gate *gate, struct frame *frame, const struct packet *packet,
                     struct flow *flow, uint64_t now);

/* Lets out the first frame of its flow, or one without flow, and frees `held`. */
void gate_held_release(struct gate *gate, struct held *held, enum release_why why, uint64_t now);

/* Lets out a frame that is in no list, and counts it. */
void gate_let_out(struct gate *gate, struct frame *frame, const struct packet *packet,
                  enum release_why why, uint64_t held_ns);

/* Frees one that is in no list any more, its frame not included. */
void gate_held_free(struct gate *gate, struct held *held);

/* What the SVM has said of the stream in which `held` is the next TCP frame to go; NULL when it is
 * not that, or nothing is known of it. */
const struct view *gate_held_coverage(const struct gate *gate, const struct held *held);

/* Splits what has waited for long enough among the oldest. Returns when to look again. */
uint64_t gate_held_split_stuck(struct gate *gate, uint64_t now);

/* ---- gate_fragment.c ---- */

/* A fragment was appended. When its packet is all there, that is compared from here on, in its
 * flow, which is returned; else NULL. */
struct flow *gate_fragment_join(struct gate *gate, struct held *held);

/* ---- gate_verify.c ---- */

/* Verifies as many of the SVM's digests as the PVM's held bytes allow, and moves coverage. */
void gate_verify_pending(struct gate *gate, struct flow *flow, struct view *view);
static inline void gate_verify(struct gate *gate, struct flow *flow, struct view *view)
{
	if (view->last)
		gate_verify_pending(gate, flow, view);
}

/* The number behind the last byte of the stream that the held frames of the view have without a gap
 * from `seq` on; `seq` when they do not have that one. */
uint32_t gate_verify_held_end(const struct flow *flow, const struct view *view, uint32_t seq);

/* ---- gate_cut.c ---- */

/* Asks for ranges in two that hold up what has waited for long enough. Returns when to look again.
 */
uint64_t gate_cut_stuck(struct gate *gate, uint64_t now);

/* ---- gate_spoken.c ---- */

/* Room for what is remembered. 0 or -ENOMEM; fini takes a gate without, too. */
int gate_spoken_init(struct gate *gate);
void gate_spoken_fini(struct gate *gate);

/* A digest was verified over the frame's bytes [seq, seq + len), alone (its hash) or over those of
 * other frames, too (NULL); over its SYN; over a FIN at `seq` in this epoch. */
void gate_spoken_proved(struct gate *gate, struct flow *flow, struct held *held, uint32_t seq,
                        uint32_t len, const uint8_t hash[PACKET_DIGEST_LEN]);
void gate_spoken_syn(struct gate *gate, struct flow *flow, struct held *held);
void gate_spoken_fin(struct gate *gate, struct flow *flow, uint32_t epoch, uint32_t seq);

/* A TCP frame of the flow goes out by match or by commit: what it says may be repeated. */
void gate_spoken_released(struct gate *gate, struct flow *flow, const struct held *held);

/* The frame's first `part` bytes are to be cut off: the rest begins within a segment. */
void gate_spoken_split(struct held *held, uint32_t part);

/* Whether bytes, SYN and FIN of the frame, where it has them, are those that have been said. */
bool gate_spoken_is(struct gate *gate, const struct flow *flow, struct held *held);

/* Nothing that the flow has said is known any more. */
void gate_spoken_forget(struct flow *flow);

/* ---- gate_membership.c ---- */

/* The PVM has said this: notes what a report says of its groups, or that one is unclear. */
void gate_membership_said(struct gate *gate, const struct packet *packet);

/* The SVM has said this of a group, or a report that is unclear. Returns the flow whose reports it
 * is for, NULL when there is none. */
struct flow *gate_membership_heard(struct gate *gate, struct flow *flow, struct view *view,
                                   const struct digest *digest);

/* A view begins: the PVM's newest word on the group is in the checkpoint. */
void gate_membership_begin(const struct gate *gate, const struct flow *flow, struct view *view);

/* Whether the SVM means the same for each group of the report. */
bool gate_membership_matches(const struct gate *gate, const struct held *held);

/* ---- gate_match.c ---- */

/* Whether the SVM has said the frame's part of the stream. */
bool gate_match_covered(const struct view *view, const struct held *held);

/* Releases from the flow's head what matches. */
void gate_match_release(struct gate *gate, struct flow *flow, uint64_t now);

#endif
