/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_GATE_H
#define COLO_CORE_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/policy.h"
#include "colo-proxy/core/records.h"

/*
 * The primary's gate: what the PVM says waits here until the SVM has been seen to say the same in
 * the same lineage, or until a later checkpoint is committed (R1). See gate.c for how.
 *
 * No I/O, no clock: frames, digests and checkpoint events go in with a time (ns), and releases and
 * requests come out through the operations. Operations are called from inside the calls below and
 * must not call back into the gate.
 */

struct gate;

enum release_why {
	RELEASE_MATCH,       /* R1 (a) */
	RELEASE_COMMIT,      /* R1 (b) */
	RELEASE_UNPROTECTED, /* no secondary is owed anything: nothing is protected */
	RELEASE_BYPASS,      /* the operator's rules take the flow out of R1 */
	RELEASE_WHY_COUNT,
};

#define DIVERGENCE_PACKETS 4u

/* Why a checkpoint is asked for. */
struct divergence {
	enum ckpt_cause cause;
	uint32_t epoch;
	bool has_key; /* a single flow is the cause */
	bool iss_known;
	struct flow_key key; /* else zero */
	uint32_t iss;        /* TCP: the PVM's initial sequence number */
	uint32_t seq, len;   /* TCP: the range in question */
	uint32_t wanted;     /* TCP: the sequence or acknowledgement number waited for */
	uint32_t seen;       /* TCP: how far the SVM has come, or where it goes on */
	const char *what;    /* static text */
	/* The rest is valid during the call only. */
	const struct digest *said; /* mismatch: what the SVM has said instead; else NULL */
	uint32_t packets;          /* of the PVM's that are in question, oldest first */
	const struct packet *packet[DIVERGENCE_PACKETS];
	uint64_t arrived[DIVERGENCE_PACKETS];
};

struct gate_ops {
	/* Lets the frame out; the callee owns it from here. held_ns: how long it waited. */
	void (*release)(void *ctx, struct frame *frame, const struct packet *packet,
	                enum release_why why, uint64_t held_ns);
	/* Asks for a checkpoint. Called at most once for each cause and epoch. */
	void (*request)(void *ctx, const struct divergence *why);
	/* The secondary must learn this before anything of the connection can match. */
	void (*flow_open)(void *ctx, uint32_t epoch, const struct flow_open *open);
	/* The PVM's timestamp clock has been seen this many ticks ahead of the SVM's. Must be told
	 * to the secondary before the next release (R7). */
	void (*ts_lead)(void *ctx, uint32_t epoch, uint32_t ticks);
	/* The PVM has stopped at `at`, within a range that the SVM has said whole: the secondary is
	 * asked for the range in two (gate_digest_cut()). Best effort. NULL: not asked. */
	void (*cut)(void *ctx, uint32_t epoch, const struct digest *said, uint32_t at);
};

struct gate_limits {
	/* How long the SVM may take before a checkpoint is asked for: at least; and what is held
	 * for a commit waits that long. */
	uint64_t late_ns;
	uint64_t max_bytes;   /* of held frames */
	uint32_t max_packets; /* held */
	uint32_t max_flows;   /* in the table */
	uint32_t max_digests; /* of one flow that wait for the PVM's bytes; below 2^24 */
	uint64_t late_max_ns; /* ... and at most, as its lag is measured (lag.h); 0: late_ns always
	                       */
};

/* Statistics for each class of packets (enum packet_class). */
struct gate_class_stats {
	uint64_t held_packets, held_bytes;           /* ever taken in while protected */
	uint64_t matched_packets, matched_bytes;     /* released by match */
	uint64_t committed_packets, committed_bytes; /* released by commit */
	uint64_t unprotected_packets, unprotected_bytes;
	uint64_t bypassed_packets,
	        bypassed_bytes;    /* let out by a rule while protected; never held */
	uint64_t mismatched, late; /* packets at which a difference was seen */
};

struct gate_stats {
	struct gate_class_stats by_class[PACKET_CLASS_COUNT];
	uint64_t now_bytes, high_bytes;
	uint32_t now_packets, high_packets;
	uint32_t now_flows, high_flows;
	uint64_t digests, digests_stale, flows_evicted;
	uint64_t ranges_cut;           /* of the SVM's, where the PVM had stopped */
	uint64_t frames_cut;           /* of the PVM's, where the SVM had stopped */
	uint64_t lag_ns, late_wait_ns; /* the SVM's lag, smoothed; how long it is waited for now */
};

/* key: what both daemons share and no guest knows; copied.
 * Returns 0, or -ENOMEM. The gate starts unprotected, in epoch 0. */
int gate_new(struct gate **ret_gate, const struct gate_limits *limits,
             const struct packet_digest_key *key, const struct gate_ops *ops, void *ctx);

/* Whether the epochs that begin from the next cut on are compared (the default). One that is not is
 * released by commit only, and asks for no checkpoint but for pressure. */
void gate_set_comparing(struct gate *gate, bool comparing);

/* The operator's rules; borrowed, NULL (the default): everything is compared. Before any output. */
void gate_set_policy(struct gate *gate, const struct policy *policy);

/* Frees the gate and, unreleased, every frame in it. */
void gate_free(struct gate *gate);

/*
 * Looking ahead, for speed with many flows: these frames (linked by `next`), or digests, come next.
 * Changes nothing but how fast they are found. The frames are read; the first 64 count.
 */
void gate_ahead(struct gate *gate, const struct frame *list);
void gate_ahead_digests(struct gate *gate, const struct digest *digests, uint32_t count);

/* The PVM has said this. Takes the frame. Returns 0, or -ENOMEM: the frame was freed, not
 * released, and a checkpoint for pressure has been asked for. */
int gate_output(struct gate *gate, struct frame *frame, uint64_t now);

/* The SVM, in this lineage, has said this. Returns 0; -EPROTO for a lineage that does not exist
 * yet (a peer that lies). Digests of older lineages are counted and ignored. */
int gate_digest(struct gate *gate, uint32_t lineage, const struct digest *digest, uint64_t now);

/* The answer to the operation `cut`. One to a range that does not wait any more is ignored. Returns
 * 0; -EPROTO for one that cannot be cut there. */
int gate_digest_cut(struct gate *gate, uint32_t lineage, const struct digest_cut *cut,
                    uint64_t now);

/* The PVM stands still and all that it said has gone through gate_output(): epoch `epoch` begins.
 * From here on everything is held. epoch is 0 (protection begins) or the current one plus 1. */
void gate_cut(struct gate *gate, uint32_t epoch, uint64_t now);

/* C(epoch) is complete and verified on the secondary host: what was said before it goes out. */
void gate_commit(struct gate *gate, uint32_t epoch, uint64_t now);

/* What the commit of C(epoch) would let out now, oldest first. The packets last for the call. */
void gate_each_before(const struct gate *gate, uint32_t epoch,
                      void (*fn)(void *ctx, const struct packet *packet), void *ctx);

/* What was told to S about a lineage no longer counts: comparison in the current epoch is over and
 * only a commit releases (the input did not reach the SVM whole). Asks for a checkpoint. */
void gate_break(struct gate *gate, enum ckpt_cause cause, const char *what, uint64_t now);

/* Nobody needs protecting from anybody: this host is the only one that may speak (the caller has
 * the right: fence, or no secondary ever took C(0)). Releases everything, and everything to come.
 */
void gate_unprotect(struct gate *gate, uint64_t now);

/* Does what is due (late packets). Returns the time to be called next, or UINT64_MAX. */
uint64_t gate_tick(struct gate *gate, uint64_t now);

/* False while the gate is full: the caller stops reading the VM's output (R8). */
bool gate_has_room(const struct gate *gate);

/* Something that was said in the current epoch is held. */
bool gate_epoch_has_output(const struct gate *gate);
bool gate_is_protected(const struct gate *gate);
uint32_t gate_epoch(const struct gate *gate);
void gate_get_stats(const struct gate *gate, struct gate_stats *ret_stats);

#endif
